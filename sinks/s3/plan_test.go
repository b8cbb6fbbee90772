// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package s3

import (
	"testing"

	"github.com/minio/minio-go/v7"
	"pgregory.net/rapid"
)

const tib = int64(1) << 40

func TestPlan(t *testing.T) {
	p := plan{first: defaultPartBytes}
	for _, c := range []struct {
		number int
		want   int64 // MiB
	}{
		{1, 16}, {1000, 16}, {1001, 32}, {2000, 32}, {2001, 64}, {2250, 64}, {2251, 128}, {2501, 256}, {2751, 512}, {3001, 1024}, {10_000, 1024},
	} {
		if got := p.size(c.number); got != c.want<<20 {
			t.Errorf("part %d has %d MiB, want %d", c.number, got>>20, c.want)
		}
	}
}

// TestPlanReaches checks that parts of any first length reach 5 TiB, grow, and stay
// within S3's limits and the memory's.
func TestPlanReaches(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := config{
			plan:        plan{first: rapid.Int64Range(minPartBytes, maxPartBytes).Draw(t, "first")},
			parallel:    rapid.IntRange(1, 64).Draw(t, "parallel"),
			memoryBytes: rapid.Int64Range(16<<20, 1<<32).Draw(t, "memory"),
		}
		last := int64(0)
		for n := 1; n <= maxParts; n++ {
			size := c.plan.size(n)
			if size < max(last, minPartBytes) || size > maxPartBytes {
				t.Fatalf("part %d has %d bytes, the one before %d", n, size, last)
			}
			parts, inFile := c.room(size)
			if parts < 2 || parts > c.parallel+1 || !inFile && int64(parts)*size > c.memoryBytes {
				t.Fatalf("%d parts of %d bytes at a time, in a file %v", parts, size, inFile)
			}
			last = size
		}
		if total := c.plan.total(); total < 5*tib {
			t.Fatalf("%d bytes at most", total)
		}
	})
}

func TestPlanEqual(t *testing.T) {
	c := config{plan: plan{first: defaultPartBytes, equal: true}}
	for _, hint := range []int64{0, 1, 100 << 30, tib, 5 * tib, 40 * tib} {
		p := c.planFor(hint)
		if p.size(1) != p.size(maxParts) || p.total() < hint {
			t.Errorf("hint %d: parts of %d and %d bytes, %d in all", hint, p.size(1), p.size(maxParts), p.total())
		}
	}
	c.sizeGiven = true
	if p := c.planFor(5 * tib); p.first != defaultPartBytes {
		t.Errorf("a size that was given becomes %d", p.first)
	}
}

func TestPlanMatch(t *testing.T) {
	part := func(number int, size int64) minio.ObjectPart {
		return minio.ObjectPart{PartNumber: number, Size: size << 20}
	}
	grown := plan{first: 16 << 20}
	equal := plan{first: 16 << 20, equal: true}
	for _, c := range []struct {
		name  string
		p     plan
		free  bool
		parts []minio.ObjectPart
		want  bool
	}{
		{"none", grown, false, nil, true},
		{"gaps", grown, false, []minio.ObjectPart{part(1, 16), part(7, 16), part(1500, 32)}, true},
		{"short last one", grown, false, []minio.ObjectPart{part(1, 16), part(2, 3)}, true},
		{"long last one", grown, false, []minio.ObjectPart{part(1, 16), part(2, 17)}, false},
		{"short in the middle", grown, false, []minio.ObjectPart{part(1, 16), part(2, 3), part(3, 16)}, false},
		{"other size", grown, false, []minio.ObjectPart{part(1, 32), part(2, 32)}, false},
		{"did not grow", grown, false, []minio.ObjectPart{part(1, 16), part(1500, 16), part(1501, 16)}, false},
		{"equal of other size, free", equal, true, []minio.ObjectPart{part(1, 32), part(9, 32)}, true},
		{"equal of other size", equal, false, []minio.ObjectPart{part(1, 32), part(9, 32)}, false},
	} {
		if _, got := c.p.match(c.parts, c.free); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}
