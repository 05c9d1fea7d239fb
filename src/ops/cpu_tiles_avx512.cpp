#define DSRSQ_TILES cpu_tiles_avx512
#define DSRSQ_TILES_NAME "avx512"
#include "cpu_tiles_code.h"
