#define DSRSQ_TILES cpu_tiles_generic
#include "cpu_tiles_code.h"
