// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"compress/flate"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vmstream/vmstream/internal/s3lab"
	"github.com/vmstream/vmstream/internal/testenv"
)

func TestMedian(t *testing.T) {
	cases := []struct {
		values []float64
		want   float64
	}{
		{nil, 0},
		{[]float64{3}, 3},
		{[]float64{9, 1, 2}, 2},
		{[]float64{4, 1, 2, 100}, 3},
	}
	for _, c := range cases {
		if got := median(c.values); got != c.want {
			t.Errorf("median of %v is %v, want %v", c.values, got, c.want)
		}
	}
}

func TestVerdicts(t *testing.T) {
	run := func(wall, cpu time.Duration) usage { return usage{Wall: wall, CPU: cpu, RSSBytes: 100 << 20} }
	ours := &candResult{OutBytes: 102, Runs: []usage{run(1*time.Second, 4*time.Second), run(3*time.Second, 4*time.Second)}}
	peer := &candResult{OutBytes: 100, Runs: []usage{run(2*time.Second, 2*time.Second), run(2*time.Second, 2*time.Second)}}
	f := compute(peer, ours)
	if f.WallRatio != 1 || f.CPURatio != 2 || f.SizeRatio != 1.02 || f.RSS != 100 {
		t.Fatalf("figures are %+v", f)
	}
	cases := []struct {
		limit  limit
		missed int
	}{
		{limit{wallRatio, 1}, 0},
		{limit{wallRatio, 0.9}, 1},
		{limit{cpuRatio, 2}, 0},
		{limit{cpuRatio, 1.5}, 1},
		{limit{sizeRatio, 1.02}, 0},
		{limit{sizeRatio, 1.01}, 1},
		{limit{wallSeconds, 2}, 0},
		{limit{wallSeconds, 1.9}, 1},
		{limit{rssMiB, 100}, 0},
		{limit{rssMiB, 99}, 1},
	}
	for _, c := range cases {
		text, missed := verdicts(&f, []limit{c.limit})
		if missed != c.missed || strings.Contains(text, "FAIL") != (c.missed > 0) {
			t.Errorf("%v: %d missed, %q; want %d", c.limit, missed, text, c.missed)
		}
	}
	none := compute(ours, ours)
	if _, missed := verdicts(&none, []limit{{wallRatio, 5}}); missed != 1 {
		t.Error("a ratio that was not measured keeps its limit")
	}
}

func TestDisk(t *testing.T) {
	dir := t.TempDir()
	name, err := makeDisk(dir, 2*unitBytes)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	ratio := func(b []byte) float64 {
		var out bytes.Buffer
		w, err := flate.NewWriter(&out, 6)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(b); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return float64(len(b)) / float64(out.Len())
	}
	want := [shares][2]float64{random: {0.9, 1.01}, text: {2, 4}, zeros: {500, 5000}, hole: {500, 5000}}
	for unit := range 2 {
		for s, w := range want {
			at := unit*unitBytes + s*shareBytes
			if got := ratio(b[at : at+shareBytes]); got < w[0] || got > w[1] {
				t.Errorf("share %d of unit %d compresses %.2f times, want %v", s, unit, got, w)
			}
		}
	}
	if bytes.Equal(b[:2*shareBytes], b[unitBytes:unitBytes+2*shareBytes]) {
		t.Error("the units are equal: a program that finds repetitions would have an easy life")
	}
	before, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := makeDisk(dir, 2*unitBytes); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if !os.SameFile(before, after) {
		t.Error("the disk was made again")
	}
}

func TestPipeline(t *testing.T) {
	in := filepath.Join(t.TempDir(), "in")
	if err := os.WriteFile(in, make([]byte, 300000), 0o600); err != nil {
		t.Fatal(err)
	}
	u, err := pipe([]string{"cat"}, []string{"cat"}).from(in).run(t.Context(), true)
	if err != nil || u.OutBytes != 300000 || u.Wall <= 0 {
		t.Errorf("cat | cat: %+v, %v", u, err)
	}
	_, err = pipe([]string{"sh", "-c", "echo because >&2; exit 3"}, []string{"cat"}).run(t.Context(), false)
	if err == nil || !strings.Contains(err.Error(), "because") {
		t.Errorf("a failing first program gives %v", err)
	}
	if _, err := pipe([]string{"cat"}, []string{"/does/not/exist"}).run(t.Context(), false); err == nil {
		t.Error("a missing program is no error")
	}
	if got := pipe([]string{"/usr/bin/cat", "/a/b/disk"}, []string{"cat"}).from("/x/in").String(); got != "cat disk | cat < in" {
		t.Errorf("shown as %q", got)
	}
}

// TestQuick measures a small disk with a fresh build, to know that make bench
// works: every line must have figures or say why not.
func TestQuick(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs vmstream")
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "vmstream")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./cmd/vmstream")
	build.Dir = testenv.Root(t)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var table, log bytes.Buffer
	results := filepath.Join(dir, "results.json")
	_, err := run(t.Context(), []string{
		"-quick", "-size", "32", "-dir", filepath.Join(dir, "bench"), "-vmstream", program,
		"-json", results, "-s3-server", s3lab.VersityGWPath(t), "-run", "plain|plugin|lz4|s3|restore|verify|sparse|vmfs|skip|increment|merge",
	}, &table, &log)
	if err != nil {
		t.Fatalf("%v\n%s", err, &log)
	}
	b, err := os.ReadFile(results)
	if err != nil {
		t.Fatal(err)
	}
	var rep report
	if err := json.Unmarshal(b, &rep); err != nil {
		t.Fatal(err)
	}
	if len(rep.Results) != 17 || rep.Judged {
		t.Errorf("%d rows, judged: %v; want 17, not judged", len(rep.Results), rep.Judged)
	}
	for _, r := range rep.Results {
		for _, c := range r.Cands {
			if c.Missing == "" && (len(c.Runs) != 1 || c.Runs[0].Wall <= 0) {
				t.Errorf("%s: %s has the runs %+v", r.Name, c.Command, c.Runs)
			}
			if !strings.Contains(table.String(), strings.ReplaceAll(c.Command, "|", "\\|")) {
				t.Errorf("the table has no line for %s", c.Command)
			}
		}
	}
	left, err := filepath.Glob(filepath.Join(dir, "bench", "work-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
