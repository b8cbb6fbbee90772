// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"testing"

	"github.com/vmstream/vmstream/disk"
)

// pickySink takes some of the disks.
type pickySink struct {
	memSink
	want []int
}

func (s *pickySink) Disk(i int) (disk.Writer, error) {
	if !slices.Contains(s.want, i) {
		return nil, nil
	}
	return s.memSink.Disk(i)
}

// readPart reads some of the disks of b, and passes over the others. It also returns
// how many bytes were read.
func readPart(b []byte, want []int, o ReadOptions, file bool) (*pickySink, int64, error) {
	found, err := FindIndex(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return nil, 0, err
	}
	n := new(Counters)
	in := &countingReader{r: bytes.NewReader(b), n: &n.Out}
	var passed int64
	o.Part = &Part{Index: found.Index, From: func(offset int64) (io.Reader, error) {
		passed++
		if offset > int64(len(b)) {
			return nil, io.ErrUnexpectedEOF
		}
		return bytes.NewReader(b[offset:]), nil
	}}
	if file {
		o.File, o.Part.From = &FileInput{R: bytes.NewReader(b)}, nil
	}
	o.Counters = n
	s := &pickySink{want: want}
	_, err = Read(context.Background(), in.r, s, o)
	return s, n.Out.Load(), err
}

func threeDisks() [][]byte {
	all := make([][]byte, 3)
	for i := range all {
		all[i] = make([]byte, 6<<20)
		textLike(all[i][i<<20:], uint64(i)) // with an empty extent in front, or not
	}
	return all
}

func threeDiskStream(tb testing.TB, c string) ([][]byte, []byte, *Result) {
	content := threeDisks()
	var disks []Disk
	for i := range content {
		disks = append(disks, memDisk(fmt.Sprint("scsi0:", i), content[i]))
	}
	b, res := writeStream(tb, disks, []File{memFile("x.log", []byte("log"))}, testOptions(c))
	return content, b, res
}

func TestReadPart(t *testing.T) {
	for _, c := range codecNames() {
		content, b, _ := threeDiskStream(t, c)
		for _, want := range [][]int{{0, 1, 2}, {0}, {1}, {2}, {0, 2}, {1, 2}, {}} {
			for _, file := range []bool{false, true} {
				s, n, err := readPart(b, want, ReadOptions{}, file)
				if err != nil {
					t.Fatalf("%s, disks %v: %v", c, want, err)
				}
				if s.files["x.log"].String() != "log" {
					t.Errorf("%s, disks %v: the file is not what was written", c, want)
				}
				for _, i := range want {
					if !bytes.Equal(s.disks[i].b, content[i]) {
						t.Errorf("%s, disks %v: disk %d is not what was written", c, want, i)
					}
				}
				if c == codecNames()[0] && n > int64(len(want)+1)*6<<20 {
					t.Errorf("%s, disks %v: %d of %d bytes were read", c, want, n, len(b))
				}
			}
		}
	}
}

// TestReadPartDamage flips bytes: what is read is right, or there is an error.
func TestReadPartDamage(t *testing.T) {
	for _, c := range codecNames() {
		content, b, res := threeDiskStream(t, c)
		at := func(name string) int64 {
			i := slices.IndexFunc(res.Index.Members, func(m *MemberRecord) bool { return m.Name == name })
			if i < 0 {
				t.Fatalf("no member %s", name)
			}
			return res.Index.Members[i].Frame
		}
		read := at(res.Opening.Disks[1].extentName(1))
		for what, offset := range map[string]int64{
			"opening record": 700, "file": at("x.log") + 600, "extent": read + 2000, "descriptor": at(res.Opening.Disks[1].File) + 20,
			"sums": at(SumsName) + 20, "index": int64(len(b)) - 3000,
		} {
			bad := slices.Clone(b)
			bad[offset] ^= 1
			if _, _, err := readPart(bad, []int{1}, ReadOptions{}, false); err == nil {
				t.Errorf("%s: a flipped bit in %s is not found", c, what)
			} else if !isDamage(err) {
				t.Errorf("%s: a flipped bit in %s: %v", c, what, err)
			}
		}
		// Of what is passed over nothing is said.
		bad := slices.Clone(b)
		bad[at(res.Opening.Disks[2].extentName(3))+2000] ^= 1
		if s, _, err := readPart(bad, []int{1}, ReadOptions{}, false); err != nil || !bytes.Equal(s.disks[1].b, content[1]) {
			t.Errorf("%s: a flipped bit in what is passed over: %v", c, err)
		}
		if _, _, err := readPart(bad, []int{2}, ReadOptions{}, false); err == nil {
			t.Errorf("%s: a flipped bit in what is read is not found", c)
		}
	}
}

// TestReadPartForeign has an index that is not that of the stream.
func TestReadPartForeign(t *testing.T) {
	_, b, res := threeDiskStream(t, codecNames()[0])
	for name, change := range map[string]func(*Index){
		"another id":       func(ix *Index) { ix.ID = "another" },
		"another opening":  func(ix *Index) { o := *ix.Opening; o.Tool = "x"; ix.Opening = &o },
		"no members":       func(ix *Index) { ix.Members = nil },
		"no end of disk":   func(ix *Index) { ix.Members = ix.Members[:10] },
		"no disks":         func(ix *Index) { ix.Disks = nil },
		"back to the disk": func(ix *Index) { ix.Members = cloneMembers(ix.Members); moveMembers(ix.Members, -5<<20) },
		"beyond the end":   func(ix *Index) { ix.Members = cloneMembers(ix.Members); moveMembers(ix.Members, 50<<20) },
		"negative":         func(ix *Index) { ix.Members = cloneMembers(ix.Members); moveMembers(ix.Members, -50<<20) },
		"wrong digest": func(ix *Index) {
			ix.Members = cloneMembers(ix.Members)
			ix.Members[3].SHA256 = ix.Members[4].SHA256
		},
	} {
		t.Run(name, func(t *testing.T) {
			ix := *res.Index
			change(&ix)
			for _, file := range []bool{false, true} {
				o := ReadOptions{Part: &Part{Index: &ix, From: func(offset int64) (io.Reader, error) {
					return bytes.NewReader(b[min(max(offset, 0), int64(len(b))):]), nil
				}}}
				if file {
					o.File = &FileInput{R: bytes.NewReader(b)}
				}
				_, err := Read(t.Context(), bytes.NewReader(b), &pickySink{want: []int{2}}, o)
				if err == nil || !isDamage(err) {
					t.Errorf("file %v: %v", file, err)
				}
			}
		})
	}
}

func cloneMembers(all []*MemberRecord) []*MemberRecord {
	var own []*MemberRecord
	for _, m := range all {
		c := *m
		own = append(own, &c)
	}
	return own
}

func moveMembers(all []*MemberRecord, by int64) {
	for _, m := range all[8:] {
		m.Tar, m.Frame = m.Tar+by, m.Frame+by
	}
}
