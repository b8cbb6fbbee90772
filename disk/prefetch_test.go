// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package disk

import (
	"errors"
	"iter"
	"slices"
	"testing"

	"github.com/vmstream/vmstream/internal/readahead"
)

// asked is a disk that notes what it is asked for.
type asked struct {
	Image
	runs []Run
}

func (a *asked) Prefetch(off, n int64) { a.runs = append(a.runs, Run{off, n, Data}) }

// scattered are runs of which all kinds follow each other, some of them long.
func scattered(n int) []Run {
	var runs []Run
	at := int64(1 << 40)
	for i := range n {
		r := Run{at, 64 << 10, []Kind{Data, Parent, Data, Zero, Data}[i%5]}
		if i%50 == 7 {
			r.Length = 3 * readahead.Bytes
		}
		if i > n-3*aheadRuns {
			r.Kind = Zero
		}
		runs, at = append(runs, r), r.End()
	}
	return runs
}

func each(runs []Run, last error) iter.Seq2[Run, error] {
	return func(yield func(Run, error) bool) {
		if yieldAll(runs, yield) && last != nil {
			yield(Run{}, last)
		}
	}
}

// All data is asked for once, in order, before it is read and not too long before.
func TestAhead(t *testing.T) {
	runs := scattered(10_000)
	var a asked
	var want, got []Run
	most := int64(0)
	for r, err := range Ahead(&a, each(runs, nil)) {
		if err != nil {
			t.Fatal(err)
		}
		ahead := int64(0)
		if got = append(got, r); r.Kind == Data {
			want = append(want, Run{r.Offset, min(r.Length, readahead.Bytes), Data})
			if len(a.runs) < len(want) {
				t.Fatalf("%d is read before it is asked for", r.Offset)
			}
			for _, r := range a.runs[len(want)-1:] {
				ahead += r.Length
			}
		}
		most = max(most, ahead)
	}
	if !slices.Equal(got, runs) || !slices.Equal(a.runs, want) {
		t.Errorf("yielded %d of %d runs, asked for %d of %d", len(got), len(runs), len(a.runs), len(want))
	}
	if most < readahead.Bytes || most >= 2*readahead.Bytes {
		t.Errorf("%d bytes were asked for at most before they were read", most)
	}
}

// An error comes behind what is in front of it.
func TestAheadFails(t *testing.T) {
	runs, failed := scattered(100), errors.New("broken")
	for _, of := range []Image{&asked{}, struct{ Image }{}} { // one that is asked, and one that cannot be
		n := 0
		for r, err := range Ahead(of, each(runs, failed)) {
			if n == len(runs) {
				if !errors.Is(err, failed) {
					t.Errorf("got %v, %v", r, err)
				}
			} else if err != nil || r != runs[n] {
				t.Fatalf("run %d: %v, %v", n, r, err)
			}
			n++
		}
		if n != len(runs)+1 {
			t.Errorf("%d runs", n)
		}
	}
}

// Who has enough gets no more.
func TestAheadEnds(t *testing.T) {
	for stop := range 100 {
		n := 0
		for range Ahead(&asked{}, each(scattered(100), nil)) {
			if n++; n > stop {
				break
			}
		}
		if n != stop+1 {
			t.Errorf("%d runs, not %d", n, stop+1)
		}
	}
}
