// In front of a function: the compiler makes one version for each instruction set; the loader
// picks.
#pragma once

#if defined(__x86_64__) && defined(__gnu_linux__)
#define DSRSQ_TARGET_CLONES \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define DSRSQ_TARGET_CLONES
#endif
