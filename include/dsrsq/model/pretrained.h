// Pretrained weights of a Hugging Face folder in the backbone.
#pragma once

#include "dsrsq/model/pretrained_folder.h"
#include "dsrsq/model/transformer.h"

namespace dsrsq {

// Fills every parameter of the backbone, which was made with the folder's config and at least its
// vocabulary; fp16 and bf16 become the parameter's type. A convolution, which no pretrained model
// has, becomes the identity, so that the model computes what it did. Tensors are read from the
// mapped file: no second copy. Throws CheckpointError that names a missing tensor, a shape that
// does not fit, weights that are not finite, a tensor that belongs to nothing, or a file that is
// not what the folder's manifest says.
void load_pretrained(Transformer& backbone, const PretrainedFolder& folder);

}  // namespace dsrsq
