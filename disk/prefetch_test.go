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

// Long data comes in pieces, and all else as it is.
func TestSplit(t *testing.T) {
	failed := errors.New("broken")
	runs := []Run{{0, 10, Data}, {10, 25, Data}, {35, 100, Zero}, {135, 20, Data}, {155, 31, Parent}}
	want := []Run{{0, 10, Data}, {10, 10, Data}, {20, 10, Data}, {30, 5, Data}, {35, 100, Zero}, {135, 10, Data}, {145, 10, Data}, {155, 31, Parent}}
	var got []Run
	var last error
	for r, err := range Split(each(runs, failed), 10) {
		if last = err; err == nil {
			got = append(got, r)
		}
	}
	if !slices.Equal(got, want) || !errors.Is(last, failed) {
		t.Errorf("%v, %v", got, last)
	}
	for stop := range want {
		n := 0
		for range Split(each(runs, nil), 10) {
			if n++; n > stop {
				break
			}
		}
		if n != stop+1 {
			t.Errorf("%d runs, not %d", n, stop+1)
		}
	}
}
