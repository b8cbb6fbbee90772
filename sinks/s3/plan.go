// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package s3

const (
	// S3's own limits.
	maxParts     = 10_000
	minPartBytes = 5 << 20 // of all parts but the last
	maxPartBytes = 5 << 30

	defaultPartBytes = 16 << 20

	// Parts grow slowly while they are small enough to be kept in memory, and
	// quickly when they are not.
	slowGrowth, slowLimit = 1000, 64 << 20
	fastGrowth, fastLimit = 250, 1 << 30
)

// plan says how long each part is. It follows from the length of the first one, so
// that parts which are there tell if they were made by the same plan.
type plan struct {
	first int64 // bytes
	equal bool
}

// size returns the length of a part in bytes; the first one is number 1. A part is
// twice as long as one 1000 numbers before, up to 64 MiB, and then as one 250 numbers
// before, up to 1 GiB.
func (p plan) size(number int) int64 {
	size, left := p.first, number-1
	for !p.equal {
		step := slowGrowth
		if size >= slowLimit {
			step = fastGrowth
		}
		if size >= fastLimit || left < step {
			break
		}
		left -= step
		size *= 2
	}
	return min(size, maxPartBytes)
}

// total returns how long an object can be, in bytes.
func (p plan) total() int64 {
	var sum int64
	for n := 1; n <= maxParts; n++ {
		sum += p.size(n)
	}
	return sum
}

// planFor returns the plan of an object that will be about sizeHint bytes long. Only
// parts of equal length depend on that: they must reach its end, and get a quarter
// in reserve.
func (c *config) planFor(sizeHint int64) plan {
	p := c.plan
	if !p.equal || c.sizeGiven || sizeHint <= 0 {
		return p
	}
	const step = 1 << 20
	need := sizeHint/maxParts + sizeHint/(4*maxParts)
	p.first = min(max(p.first, (need+step-1)/step*step), maxPartBytes)
	return p
}

// room says how parts of a length are kept: in memory, or in files because two of
// them, one that is filled and one that is sent, exceed it; and how many at a time.
func (c *config) room(size int64) (parts int, inFile bool) {
	if 2*size > c.memoryBytes {
		return 2, true
	}
	return int(min(int64(c.parallel)+1, c.memoryBytes/size)), false
}
