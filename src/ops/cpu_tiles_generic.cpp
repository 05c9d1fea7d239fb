#define DSRSQ_TILES cpu_tiles_generic
#define DSRSQ_TILES_NAME "generic"
#include "cpu_tiles_code.h"
