// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/testenv"
	"github.com/vmstream/vmstream/stream/codec"
)

// seriesSink keeps what a series holds. What an increment has goes over what
// is there.
type seriesSink struct {
	memSink
	nexts int
}

func (s *seriesSink) Next(o *Opening) error {
	s.nexts++
	old, was := s.disks, s.opening
	if err := s.Begin(o); err != nil {
		return err
	}
	for i := range o.Disks {
		for j := range was.Disks {
			if o.Disks[i].Increment() && was.Disks[j].Key == o.Disks[i].Key && old[j] != nil {
				s.disks[i] = old[j]
			}
		}
	}
	return nil
}

func (s *seriesSink) Disk(i int) (disk.Writer, error) {
	if s.disks[i] == nil {
		if w, err := s.memSink.Disk(i); w == nil || err != nil {
			return nil, err
		}
	}
	s.disks[i].last = 0
	return &overWriter{s.disks[i]}, nil
}

// overWriter takes zeros too.
type overWriter struct{ *memTarget }

func (o *overWriter) ZeroAt(off, n int64) error {
	if off < 0 || n <= 0 || off+n > int64(len(o.b)) {
		return fmt.Errorf("%d zeros at %d of a disk of %d", n, off, len(o.b))
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	clear(o.b[off : off+n])
	return nil
}

func readSeries(tb testing.TB, b []byte, o ReadOptions) (*seriesSink, []*Result, error) {
	tb.Helper()
	s := &seriesSink{}
	all, err := ReadSeries(tb.Context(), bytes.NewReader(b), s, o)
	return s, all, err
}

// checkSeries reads streams one behind the other in every way that there is and
// compares with the disk as it was.
func checkSeries(tb testing.TB, joined, want []byte, streams int, what string) {
	tb.Helper()
	file := &FileInput{R: bytes.NewReader(joined)}
	for _, o := range []ReadOptions{{Workers: 1}, {Workers: 3}, {Workers: 2, MemoryBytes: 1}, {Workers: 2, File: file}} {
		s, all, err := readSeries(tb, joined, o)
		if err != nil {
			tb.Fatalf("%s, %+v: %v", what, o, err)
		}
		if len(all) != streams || s.nexts != streams-1 || all[streams-1].OutBytes != int64(len(joined)) {
			tb.Fatalf("%s: %d streams, the sink got %d, %d bytes", what, len(all), s.nexts+1, all[len(all)-1].OutBytes)
		}
		for _, r := range all[:streams-1] {
			if r.Index != nil || r.IndexJSON != nil || r.Opening.Disks != nil || r.Opening.Files != nil || r.Opening.ID == "" {
				tb.Fatalf("%s: %+v is kept of a stream before the last", what, r)
			}
		}
		if !bytes.Equal(s.disks[0].b[:len(want)], want) {
			tb.Fatalf("%s, %+v: the disk is not that of the last backup", what, o)
		}
		if got := s.files["x.log"].String(); got != fmt.Sprintf("log %d", streams-1) {
			tb.Fatalf("%s: file %q", what, got)
		}
		if all, err = ReadSeries(tb.Context(), bytes.NewReader(joined), nil, o); err != nil || len(all) != streams {
			tb.Fatalf("%s: verify: %v", what, err)
		}
	}
}

// mixedHistory is a chain whose streams have codecs of their own, of chains
// that have one each.
func mixedHistory(of map[string]*history, codecs []string) *history {
	h := &history{}
	for i, c := range codecs {
		h.points, h.streams = append(h.points, of[c].points[i]), append(h.streams, of[c].streams[i])
	}
	return h
}

func TestSeries(t *testing.T) {
	of := map[string]*history{}
	for _, c := range codec.Names() {
		of[c] = makeHistory(t, 5, 2<<20+512, 2, 4096, c)
	}
	for _, codecs := range [][]string{
		{codec.None, codec.None, codec.None},
		{codec.Zstd, codec.Zstd, codec.Zstd},
		{codec.XZ, codec.XZ, codec.XZ},
		{codec.LZ4, codec.LZ4},
		{codec.None, codec.Zstd, codec.None},
		{codec.XZ, codec.LZ4, codec.Zstd},
		{codec.Zstd, codec.XZ, codec.None},
		{codec.LZ4, codec.None, codec.XZ},
	} {
		h := mixedHistory(of, codecs)
		for n := 2; n <= len(codecs); n++ {
			checkSeries(t, bytes.Join(h.streams[:n], nil), h.points[n-1], n, strings.Join(codecs[:n], "+"))
		}
	}
}

// Streams that stock programs have compressed anew, each for itself or as one.
func TestSeriesAnew(t *testing.T) {
	h := makeHistory(t, 6, 2<<20, 2, 4096, codec.None)
	for _, name := range codec.Names()[1:] {
		tool := testenv.Tool(t, name)
		anew := func(b []byte) []byte {
			c := exec.CommandContext(t.Context(), tool, "-c")
			c.Stdin = bytes.NewReader(b)
			out, err := c.Output()
			if err != nil {
				t.Fatal(err)
			}
			return out
		}
		checkSeries(t, anew(bytes.Join(h.streams, nil)), h.points[2], 3, name+" of all")
		checkSeries(t, bytes.Join([][]byte{anew(h.streams[0]), anew(h.streams[1]), anew(h.streams[2])}, nil), h.points[2], 3, name+" of each")
		checkSeries(t, bytes.Join([][]byte{anew(h.streams[0]), h.streams[1], anew(h.streams[2])}, nil), h.points[2], 3, name+" of some")
	}
}

// Only a chain in its order is read to the end; of what does not fit nothing
// goes to the sink.
func TestSeriesRefused(t *testing.T) {
	for _, c := range []string{codec.None, codec.Zstd, codec.XZ} {
		h := makeHistory(t, 1, 2<<20, 3, 4096, c)
		larger := makeHistory(t, 1, 3<<20, 3, 4096, c)
		other := makeHistory(t, 2, 2<<20, 3, 4096, c)
		for name, x := range map[string]struct {
			good   int // streams at the front that fit
			joined [][]byte
		}{
			"two fulls": {1, [][]byte{h.streams[0], h.streams[0]}}, "one missing": {1, [][]byte{h.streams[0], h.streams[2]}},
			"twice": {2, [][]byte{h.streams[0], h.streams[1], h.streams[1]}}, "back": {2, [][]byte{h.streams[0], h.streams[1], h.streams[0]}},
			"another capacity": {1, [][]byte{h.streams[0], larger.streams[1]}}, "a byte": {1, [][]byte{h.streams[0], {0}}},
			"zeros": {1, [][]byte{h.streams[0], make([]byte, 10240)}}, "text": {2, [][]byte{h.streams[0], h.streams[1], []byte(strings.Repeat("text", 500))}},
			"part of the next": {1, [][]byte{h.streams[0], h.streams[1][:len(h.streams[1])/2]}},
		} {
			s, _, err := readSeries(t, bytes.Join(x.joined, nil), ReadOptions{Workers: 2})
			if err == nil || !errors.Is(err, disk.ErrMismatch) && !isDamage(err) {
				t.Errorf("%s, %s: %v", c, name, err)
			}
			if partly := name == "part of the next"; !partly && (s.nexts != x.good-1 || !bytes.Equal(s.disks[0].b, h.points[x.good-1])) {
				t.Errorf("%s, %s: something of what does not fit went to the sink", c, name)
			}
		}
		// The other history has the same ids and content ids, so it fits; its
		// digests show that it was not made on this one only where it is tracked.
		if _, _, err := readSeries(t, append(bytes.Clone(h.streams[0]), other.streams[1]...), ReadOptions{}); err != nil {
			t.Errorf("%s: %v", c, err)
		}
	}
}

// A series that ends anywhere but at the end of a stream is not whole, and no
// byte of it can change unseen.
func TestSeriesCut(t *testing.T) {
	for _, c := range codec.Names() {
		h := smallHistory(t, c)
		joined := bytes.Join(h.streams, nil)
		first := len(h.streams[0])
		step := map[string]int{codec.Zstd: 1, codec.LZ4: 13, codec.XZ: 37, codec.None: 997}[c]
		check := func(i int) {
			if _, err := ReadSeries(t.Context(), bytes.NewReader(joined[:i]), nil, ReadOptions{Workers: 1}); (err == nil) != (i == first) {
				t.Fatalf("%s: cut at %d of %d+%d: %v", c, i, first, len(joined)-first, err)
			}
		}
		for i := first - 3; i < first+50; i++ {
			check(i)
		}
		if testing.Short() {
			continue // the end of the first stream is what matters
		}
		for i := 1; i < len(joined); i += step {
			check(i)
		}
		r := rand.New(rand.NewPCG(3, 3))
		for range 100 {
			bad := bytes.Clone(joined)
			bad[r.IntN(len(bad))] ^= 1 << r.IntN(8)
			if _, err := ReadSeries(t.Context(), bytes.NewReader(bad), nil, ReadOptions{Workers: 1}); err == nil {
				t.Fatalf("%s: damage was not noticed", c)
			}
		}
	}
}

// smallHistory is a full backup and an increment of a small tracked disk.
func smallHistory(tb testing.TB, c string) *history {
	h := &history{points: [][]byte{vecDisk(2<<20, 0, 2, 20), vecDisk(2<<20, 1, 2)}}
	for i, b := range h.points {
		o := testOptions(c)
		o.ID = fmt.Sprintf("backup-000%d", i+1)
		d := memDisk("disk", b)
		d.Record.TrackBytes = MinTrackBytes
		if i > 0 {
			o.Parent, d.Was, d.Compare = h.results[0].Opening, h.results[0].Index.Track("disk"), true
		}
		s, res := writeStream(tb, []Disk{d}, nil, o)
		h.streams, h.results = append(h.streams, s), append(h.results, res)
	}
	return h
}

// FuzzSeries joins streams of two chains in any order: only chains in their
// order are taken, side by side and one behind the other, and give the disk of
// their last stream.
func FuzzSeries(f *testing.F) {
	a := makeHistory(f, 7, 1<<20, 3, 4096, codec.None)
	b := makeHistory(f, 8, 1<<20, 3, 4096, codec.Zstd)
	renamed := &history{points: b.points}
	var last *Result
	for i := range b.points {
		o := testOptions(codec.Zstd)
		o.ID = fmt.Sprintf("other-%d", i)
		d := memDisk("disk", b.points[i])
		if i > 0 {
			o.Parent, d.Changes = last.Opening, &diff{was: b.points[i-1], is: b.points[i], unit: 4096}
		}
		s, res := writeStream(f, []Disk{d}, nil, o)
		renamed.streams, last = append(renamed.streams, s), res
	}
	for _, order := range []string{"\x00\x01\x02\x03", "\x10\x11\x12", "\x00\x02", "\x00\x11", "\x01", "\x00\x01\x01", "", "\x00\x10", "\x03\x02\x01\x00"} {
		f.Add([]byte(order))
	}
	f.Fuzz(func(t *testing.T, order []byte) {
		if len(order) > 6 {
			order = order[:6]
		}
		var joined []byte
		var ins []io.Reader
		want := len(order) > 0
		var point []byte
		for i, x := range order {
			h := []*history{a, renamed}[x>>4&1]
			level := int(x & 3)
			want = want && level == i && x>>4&1 == order[0]>>4&1
			joined, ins = append(joined, h.streams[level]...), append(ins, bytes.NewReader(h.streams[level]))
			point = h.points[level]
		}
		s, _, err := readSeries(t, joined, ReadOptions{Workers: 2})
		if len(order) > 0 && order[0]&3 != 0 { // a sink refuses an increment without its parents
			err = errors.Join(err, disk.ErrMismatch)
		}
		side := &memSink{ordered: true}
		_, sideErr := ReadChain(t.Context(), ins, side, ReadOptions{Workers: 2})
		if (err == nil) != want || (sideErr == nil) != want {
			t.Fatalf("order %x: joined %v, side by side %v", order, err, sideErr)
		}
		if want && (!bytes.Equal(s.disks[0].b, point) || !bytes.Equal(side.disks[0].b, point)) {
			t.Fatalf("order %x: the disk is not that of the last stream", order)
		}
	})
}
