// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package main

import "fmt"

// metric is a figure that a limit is about.
type metric int

const (
	wallRatio metric = iota // the row's first program against this one
	cpuRatio
	sizeRatio
	wallSeconds // of this program itself
	rssMiB
)

// limit is a figure that must not be exceeded.
type limit struct {
	of  metric
	max float64
}

func (l limit) String() string {
	switch l.of {
	case wallRatio:
		return fmt.Sprintf("wall ≤ %.3g ×", l.max)
	case cpuRatio:
		return fmt.Sprintf("CPU ≤ %.3g ×", l.max)
	case sizeRatio:
		return fmt.Sprintf("size ≤ %.4g ×", l.max)
	case wallSeconds:
		return fmt.Sprintf("wall ≤ %.3g s", l.max)
	default:
		return fmt.Sprintf("memory ≤ %.4g MiB", l.max)
	}
}

// figures are a candidate's results.
type figures struct {
	Wall, CPU float64 // medians, seconds
	RSS       float64 // the largest of all runs, MiB
	Out       float64 // MiB
	// The first candidate's figures divided by this one's; zero for itself
	// and where there is nothing to divide.
	WallRatio, CPURatio, SizeRatio float64
}

func (f *figures) value(m metric) float64 {
	switch m {
	case wallRatio:
		return f.WallRatio
	case cpuRatio:
		return f.CPURatio
	case sizeRatio:
		return f.SizeRatio
	case wallSeconds:
		return f.Wall
	default:
		return f.RSS
	}
}

// compute returns the figures of c, compared with first unless it is that.
func compute(c, first *candResult) figures {
	var f figures
	var wall, cpu, wallRatios, cpuRatios []float64
	for i, u := range c.Runs {
		wall, cpu = append(wall, seconds(u.Wall)), append(cpu, seconds(u.CPU))
		f.RSS = max(f.RSS, float64(u.RSSBytes)/(1<<20))
		if c == first || i >= len(first.Runs) {
			continue
		}
		if u.Wall > 0 {
			wallRatios = append(wallRatios, seconds(first.Runs[i].Wall)/seconds(u.Wall))
		}
		if u.CPU > 0 {
			cpuRatios = append(cpuRatios, seconds(first.Runs[i].CPU)/seconds(u.CPU))
		}
	}
	f.Wall, f.CPU, f.Out = median(wall), median(cpu), float64(c.OutBytes)/(1<<20)
	f.WallRatio, f.CPURatio = median(wallRatios), median(cpuRatios)
	if c != first && c.OutBytes > 0 && first.OutBytes > 0 {
		f.SizeRatio = float64(first.OutBytes) / float64(c.OutBytes)
	}
	return f
}

// verdicts tells for every limit if the figures keep it. A figure that could
// not be had keeps no limit.
func verdicts(f *figures, limits []limit) (text string, missed int) {
	for i, l := range limits {
		if i > 0 {
			text += "; "
		}
		word := "PASS"
		if v := f.value(l.of); v > l.max || v == 0 {
			word = "**FAIL**"
			missed++
		}
		text += l.String() + " " + word
		if l.of == sizeRatio {
			text += fmt.Sprintf(" (%.3f)", f.SizeRatio)
		}
	}
	return text, missed
}
