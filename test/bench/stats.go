package main

import (
	"fmt"
	"slices"
	"time"
)

// sample is what one thing took, each time that it was done.
type sample []time.Duration

// quantile is the smallest value that a share q of the sample does not exceed.
func (s sample) quantile(q float64) time.Duration {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	i := int(q*float64(len(s))+0.999999) - 1
	return sorted[min(max(i, 0), len(s)-1)]
}

func (s sample) p50() time.Duration { return s.quantile(0.50) }
func (s sample) p99() time.Duration { return s.quantile(0.99) }
func (s sample) max() time.Duration { return s.quantile(1) }

func (s sample) String() string {
	return fmt.Sprintf("p50 %s, p99 %s, max %s (n=%d)", ms(s.p50()), ms(s.p99()), ms(s.max()), len(s))
}

// short leaves out a p99 that so few values do not have.
func (s sample) short() string {
	return fmt.Sprintf("p50 %s, max %s (n=%d)", ms(s.p50()), ms(s.max()), len(s))
}

func ms(d time.Duration) string {
	v := float64(d) / float64(time.Millisecond)
	if v >= 100 || v <= -100 {
		return fmt.Sprintf("%.0f ms", v)
	}
	return fmt.Sprintf("%.1f ms", v)
}

// ratios compares two things that were done in turn, round by round.
type ratios []float64

func (r ratios) median() float64 {
	sorted := slices.Sorted(slices.Values(r))
	return sorted[len(sorted)/2]
}

func (r ratios) String() string {
	return fmt.Sprintf("median %.3f, %.3f to %.3f", r.median(), slices.Min(r), slices.Max(r))
}

func median(values []float64) float64 { return ratios(values).median() }
