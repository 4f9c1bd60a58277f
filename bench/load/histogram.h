/* Times in buckets whose width grows with the time, as in HdrHistogram: 128 buckets for every doubling, so a
   percentile is off by less than 0.8 %, and counting one costs some nanoseconds. */
#ifndef HISTOGRAM_H
#define HISTOGRAM_H

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define SUB_BITS 7
#define BUCKETS ((64 - SUB_BITS + 1) << SUB_BITS)

typedef struct {
    uint64_t counts[BUCKETS];
    uint64_t count, sum, max; /* nanoseconds */
} Histogram;

static inline void histogram_add(Histogram *h, uint64_t ns) {
    uint64_t index = ns;
    if (ns >> SUB_BITS) {
        int shift = 63 - __builtin_clzll(ns) - SUB_BITS;
        index = ((uint64_t)shift << SUB_BITS) + (ns >> shift);
    }
    h->counts[index]++;
    h->count++;
    h->sum += ns;
    if (ns > h->max)
        h->max = ns;
}

/* The middle of the bucket in which the quantile lies. */
static double histogram_at(const Histogram *h, double quantile) {
    double wanted = quantile * (double)h->count;
    uint64_t seen = 0, index;
    for (index = 0; index < BUCKETS; index++) {
        seen += h->counts[index];
        if (seen && (double)seen >= wanted)
            break;
    }
    if (index >> SUB_BITS < 2)
        return (double)index;
    int shift = (int)(index >> SUB_BITS) - 1;
    uint64_t low = (index - ((uint64_t)shift << SUB_BITS)) << shift;
    double middle = (double)low + (double)((1ULL << shift) - 1) / 2;
    return middle < (double)h->max ? middle : (double)h->max;
}

static void histogram_print(const Histogram *h, const char *name) {
    printf("\"%s\": ", name);
    if (!h->count) {
        printf("null");
        return;
    }
    printf("{\"count\": %llu, \"mean\": %.3f, \"p50\": %.3f, \"p90\": %.3f, \"p99\": %.3f, \"p99.9\": %.3f, \"max\": %.3f}",
           (unsigned long long)h->count, (double)h->sum / (double)h->count / 1e3, histogram_at(h, 0.5) / 1e3,
           histogram_at(h, 0.9) / 1e3, histogram_at(h, 0.99) / 1e3, histogram_at(h, 0.999) / 1e3, (double)h->max / 1e3);
}

#endif
