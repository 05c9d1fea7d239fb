// What a figure was measured on.
#pragma once

#include <c10/core/Device.h>

#include <map>
#include <string>

namespace dsrsq::bench {

std::string device_name(c10::Device device);  // "NVIDIA H200", "cpu, 2 threads"
// Versions of the driver and of cuDNN, where the device is a GPU.
std::map<std::string, std::string> device_versions(c10::Device device);

}  // namespace dsrsq::bench
