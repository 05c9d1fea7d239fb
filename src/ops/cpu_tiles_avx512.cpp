#define DSRSQ_TILES cpu_tiles_avx512
#include "cpu_tiles_code.h"
