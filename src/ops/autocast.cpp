#include "dsrsq/ops/autocast.h"

#include <ATen/autocast_mode.h>

namespace dsrsq::ops {

AutocastGuard::AutocastGuard(at::Device device, bool enabled)
    : type_(device.type()), enabled_(enabled) {
  if (!enabled_) return;
  before_ = at::autocast::is_autocast_enabled(type_);
  at::autocast::set_autocast_enabled(type_, true);
  at::autocast::set_autocast_dtype(type_, at::kBFloat16);
  at::autocast::increment_nesting();
}

AutocastGuard::~AutocastGuard() {
  if (!enabled_) return;
  if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
  at::autocast::set_autocast_enabled(type_, before_);
}

Fp32Guard::Fp32Guard(at::Device device)
    : type_(device.type()), before_(at::autocast::is_autocast_enabled(device.type())) {
  if (before_) at::autocast::set_autocast_enabled(type_, false);
}

Fp32Guard::~Fp32Guard() {
  if (before_) at::autocast::set_autocast_enabled(type_, true);
}

}  // namespace dsrsq::ops
