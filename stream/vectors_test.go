// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/disk"
)

var update = flag.Bool("update", false, "write the test vectors anew")

// What a vector expects of a reader.
const (
	expectOK          = "ok"
	expectCorrupt     = "corrupt"
	expectTruncated   = "truncated"
	expectUnsupported = "unsupported"
	expectMismatch    = "mismatch"
)

// vector is one case: a stream and what a reader has to make of it.
type vector struct {
	name, expect, about, codec string
	series                     int      // streams one behind the other, 0 for one
	raw                        []string // key and digest of each disk, in order
	b                          []byte
}

const vectorsDir = "testdata/vectors"

// encode returns the file: headers, an empty line, base64 of gzip.
func (v *vector) encode() ([]byte, error) {
	var b, z bytes.Buffer
	fmt.Fprintf(&b, "expect: %s\nabout: %s\ncodec: %s\n", v.expect, v.about, v.codec)
	if v.series > 0 {
		fmt.Fprintf(&b, "series: %d\n", v.series)
	}
	for _, r := range v.raw {
		fmt.Fprintf(&b, "raw-sha256: %s\n", r)
	}
	fmt.Fprintf(&b, "stream-sha256: %x\nencoding: gzip+base64\n\n", sha256.Sum256(v.b))
	w, err := gzip.NewWriterLevel(&z, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err = w.Write(v.b); err == nil {
		err = w.Close()
	}
	text := base64.StdEncoding.EncodeToString(z.Bytes())
	for len(text) > 0 {
		n := min(len(text), 100)
		b.WriteString(text[:n] + "\n")
		text = text[n:]
	}
	return b.Bytes(), err
}

func decodeVector(name string, file []byte) (*vector, error) {
	v := &vector{name: name}
	head, body, ok := strings.Cut(string(file), "\n\n")
	if !ok {
		return nil, errors.New("no empty line")
	}
	digest := ""
	for line := range strings.SplitSeq(head, "\n") {
		key, value, _ := strings.Cut(line, ": ")
		switch key {
		case "expect":
			v.expect = value
		case "about":
			v.about = value
		case "codec":
			v.codec = value
		case "raw-sha256":
			v.raw = append(v.raw, value)
		case "stream-sha256":
			digest = value
		case "series":
			if _, err := fmt.Sscan(value, &v.series); err != nil {
				return nil, err
			}
		case "encoding":
		default:
			return nil, fmt.Errorf("unknown line %q", line)
		}
	}
	r, err := gzip.NewReader(base64.NewDecoder(base64.StdEncoding, strings.NewReader(body)))
	if err != nil {
		return nil, err
	}
	if v.b, err = io.ReadAll(r); err != nil {
		return nil, err
	}
	if got := fmt.Sprintf("%x", sha256.Sum256(v.b)); got != digest {
		return nil, fmt.Errorf("the stream has the digest %s", got)
	}
	return v, nil
}

func loadVectors(tb testing.TB) []*vector {
	tb.Helper()
	names, err := filepath.Glob(filepath.Join(vectorsDir, "*.vec"))
	if err != nil {
		tb.Fatal(err)
	}
	var all []*vector
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			tb.Fatal(err)
		}
		v, err := decodeVector(strings.TrimSuffix(filepath.Base(name), ".vec"), b)
		if err != nil {
			tb.Fatalf("%s: %v", name, err)
		}
		all = append(all, v)
	}
	return all
}

// digestSink hashes what disks hold.
type digestSink struct {
	seriesSink
}

func (s *digestSink) Disk(i int) (disk.Writer, error) {
	if s.opening.Disks[i].Increment() && s.disks[i] == nil {
		return nil, nil // an increment alone is no disk
	}
	return s.seriesSink.Disk(i)
}

// read reads the vector as it is meant.
func (v *vector) read(tb testing.TB, s *digestSink, o ReadOptions) error {
	if v.series == 0 {
		_, err := Read(tb.Context(), bytes.NewReader(v.b), s, o)
		return err
	}
	all, err := ReadSeries(tb.Context(), bytes.NewReader(v.b), s, o)
	if err == nil && len(all) != v.series {
		return fmt.Errorf("%d streams were read", len(all))
	}
	return err
}

func (s *digestSink) raw() []string {
	var r []string
	for i, d := range s.opening.Disks {
		sum := "-" // too large to be hashed here
		if t := s.disks[i]; t != nil {
			sum = fmt.Sprintf("%x", sha256.Sum256(t.b[:d.CapacityBytes]))
		}
		r = append(r, d.Key+" "+sum)
	}
	return r
}

func expectation(err error) string {
	switch {
	case err == nil:
		return expectOK
	case errors.Is(err, disk.ErrTruncated):
		return expectTruncated
	case errors.Is(err, disk.ErrUnsupported):
		return expectUnsupported
	case errors.Is(err, disk.ErrMismatch):
		return expectMismatch
	case errors.Is(err, disk.ErrCorrupt):
		return expectCorrupt
	}
	return "something else"
}

// TestVectors reads every vector of testdata: the class of the result, and of
// good ones the content, have to be what the file says. With -update the files
// are written anew from the cases of vectorCases.
func TestVectors(t *testing.T) {
	if *update {
		updateVectors(t)
	}
	all := loadVectors(t)
	size := 0
	for _, v := range all {
		size += len(v.b)
		file := &FileInput{R: bytes.NewReader(v.b)}
		for _, o := range []ReadOptions{{Workers: 1}, {Workers: 3}, {Workers: 2, MemoryBytes: 1}, {Workers: 2, File: file}} {
			s := &digestSink{}
			err := v.read(t, s, o)
			if got := expectation(err); got != v.expect {
				t.Errorf("%s (%s), %+v: %s (%v), want %s", v.name, v.about, o, got, err, v.expect)
			} else if err == nil && !slices.Equal(s.raw(), v.raw) {
				t.Errorf("%s: disks have the digests %q, want %q", v.name, s.raw(), v.raw)
			}
		}
		// One stream is a series too, and a series is not one stream.
		if v.series > 0 {
			if _, err := Read(t.Context(), bytes.NewReader(v.b), nil, ReadOptions{}); err == nil {
				t.Errorf("%s: read as one stream", v.name)
			}
		} else if _, err := ReadSeries(t.Context(), bytes.NewReader(v.b), nil, ReadOptions{}); (err == nil) != (v.expect == expectOK) {
			t.Errorf("%s: as a series %v", v.name, err)
		}
	}
	cases := vectorCases(t)
	if len(all) != len(cases) {
		t.Errorf("there are %d files and %d cases; run with -update", len(all), len(cases))
	}
}

// TestVectorsFresh compares the cases with the files, so that neither changes
// unseen: a stream that is written differently is a change of the format.
// Compressed frames may change with their libraries.
func TestVectorsFresh(t *testing.T) {
	files := map[string]*vector{}
	for _, v := range loadVectors(t) {
		files[v.name] = v
	}
	for _, c := range vectorCases(t) {
		f := files[c.name]
		switch {
		case f == nil:
			t.Errorf("%s: no file", c.name)
		case c.expect != f.expect || c.about != f.about || c.codec != f.codec || c.series != f.series:
			t.Errorf("%s: the file says %q, %q, %q", c.name, f.expect, f.about, f.codec)
		case c.codec == "none" && !bytes.Equal(c.b, f.b):
			t.Errorf("%s: the stream in the file is not what is written now", c.name)
		}
	}
}

func updateVectors(t *testing.T) {
	if err := os.RemoveAll(vectorsDir); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(vectorsDir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, v := range vectorCases(t) {
		if v.expect == expectOK {
			s := &digestSink{}
			if err := v.read(t, s, ReadOptions{}); err != nil {
				t.Fatalf("%s: %v", v.name, err)
			}
			v.raw = s.raw()
		}
		b, err := v.encode()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(vectorsDir, v.name+".vec"), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
