#define DSRSQ_TILES cpu_tiles_avx2
#define DSRSQ_TILES_NAME "avx2"
#include "cpu_tiles_code.h"
