#define DSRSQ_TILES cpu_tiles_avx2
#include "cpu_tiles_code.h"
