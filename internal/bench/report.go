// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
)

// report is what a run found, and where.
type report struct {
	Vmstream  string   `json:"vmstream"`
	Go        string   `json:"go"`
	System    string   `json:"system"`
	CPU       string   `json:"cpu"`
	CPUs      int      `json:"cpus"`
	DiskBytes int64    `json:"disk_bytes"`
	Runs      int      `json:"runs"`
	Judged    bool     `json:"judged"` // limits count
	Missed    int      `json:"missed"`
	Results   []result `json:"results"`
	lines     [][]string
}

func newReport(ctx context.Context, b *bench, results []result) *report {
	r := &report{
		Vmstream: output(ctx, b.vmstream, "version"), Go: runtime.Version(), System: output(ctx, "uname", "-srm"),
		CPU: cpuModel(), CPUs: runtime.NumCPU(), DiskBytes: b.diskBytes, Runs: b.runs, Judged: !b.quick, Results: results,
	}
	for i := range results {
		r.addLines(&results[i])
	}
	return r
}

// output returns the first line that a program prints.
func output(ctx context.Context, argv ...string) string {
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).Output()
	if err != nil {
		return "unknown"
	}
	line, _, _ := bytes.Cut(out, []byte("\n"))
	return string(line)
}

func cpuModel() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if key, value, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

var columns = []string{"work", "command", "wall s", "CPU s", "memory MiB", "output MiB", "wall ratio", "CPU ratio", "limits"}

func (r *report) addLines(res *result) {
	first := &res.Cands[0]
	for i := range res.Cands {
		c := &res.Cands[i]
		line := []string{"", "`" + strings.ReplaceAll(c.Command, "|", "\\|") + "`"}
		if i == 0 {
			line[0] = res.Title
		}
		if c.Missing != "" {
			r.lines = append(r.lines, append(line, "", "", "", "", "", "", "left out: "+c.Missing+" is not installed"))
			continue
		}
		if res.apart {
			first = c
		}
		f := compute(c, first)
		text := ""
		if r.Judged {
			var missed int
			text, missed = verdicts(&f, c.limits)
			r.Missed += missed
		}
		r.lines = append(r.lines, append(
			line, number(f.Wall, 3), number(f.CPU, 3), number(f.RSS, 0), number(f.Out, 0), number(f.WallRatio, 2), number(f.CPURatio, 2), text,
		))
	}
}

// number returns a figure as a cell, empty if there is none.
func number(v float64, digits int) string {
	if v == 0 {
		return ""
	}
	return fmt.Sprintf("%.*f", digits, v)
}

// markdown writes the table and what it was measured on.
func (r *report) markdown(w io.Writer) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s, %s, %s, %d × %s; disk of %d MiB; medians of %d runs; ratios are vmstream's figure divided by the line's.\n\n",
		r.Vmstream, r.Go, r.System, r.CPUs, r.CPU, r.DiskBytes>>20, r.Runs)
	fmt.Fprintf(&b, "| %s |\n|%s\n", strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
	for _, line := range r.lines {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(line, " | "))
	}
	_, err := w.Write(b.Bytes())
	return err
}

func (r *report) writeJSON(name string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(name, append(b, '\n'), 0o644)
}
