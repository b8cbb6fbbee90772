// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package tape

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vmstream/vmstream/sinks"
)

func fuzzRecord() *record {
	return &record{
		Format: formatVersion, Set: "set", Name: "n", Volume: 2, File: 2, BlockBytes: 512, Written: time.Unix(1_700_000_000, 0).UTC(), trailer: true,
		Streams: []entry{
			{Number: 1, Key: "a", Stream: "s1", Size: 5, Parts: []part{{1, 1, 5}}},
			{Number: 2, Key: "b", Stream: "s2", Size: -1, Continued: true, Parts: []part{{1, 3, 5}, {2, 1, 1}}},
		},
	}
}

// FuzzRecord reads labels and trailers. What is taken can be written again, and is the
// same then.
func FuzzRecord(f *testing.F) {
	r := fuzzRecord()
	trailer, err := r.encode()
	if err != nil {
		f.Fatal(err)
	}
	r.trailer, r.File, r.Continues = false, 0, &continuation{"s2", 2, 6}
	label, err := r.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(trailer)
	f.Add(label)
	f.Add(label[:600])
	f.Add(bytes.Replace(label, []byte(`"streams": [`), []byte(`"streams": [{},{},{},`), 1))
	f.Add(bytes.Replace(label, []byte(`"volume": 2`), []byte(`"volume":-2`), 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRecord(b)
		if err != nil {
			if !errors.Is(err, errNoRecord) {
				t.Errorf("%v is no errNoRecord", err)
			}
			return
		}
		again, err := r.encode()
		if err != nil {
			t.Skip(err) // a time that JSON cannot have
		}
		if same, err := parseRecord(again); err != nil || len(same.Streams) != len(r.Streams) || same.Set != r.Set {
			t.Errorf("it comes back as %+v, %v", same, err)
		}
	})
}

// FuzzTape has a drive with any tape in it. What is read comes to an end, and what is
// written comes back.
func FuzzTape(f *testing.F) {
	f.Add([]byte{})
	f.Add(tapOf(f, []byte("somebody else's"), nil, nil))
	dir := virtualDir(f, "")
	for _, options := range []string{"?block=512", "?block=1K&fixed=1"} {
		insert(f, dir, nil)
		s, _ := openTarget(f, "tape:"+dir+options)
		mustPut(f, s, "a", content(1500, 1))
		mustPut(f, s, "b", content(10, 2))
		if err := s.Close(); err != nil {
			f.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(dir, loadedName))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)-50])
	}
	r := fuzzRecord()
	r.trailer, r.File, r.Continues = false, 0, &continuation{"s2", 2, 6}
	label, err := r.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(tapOf(f, label, nil, []byte("the rest"), nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := virtualDir(t, "")
		insert(t, dir, b)
		s, _ := openTarget(t, "tape:"+dir+"?wait=0&buffer=1M")
		for _, key := range []string{"a", "b", "file=0", "file=1", "file=3", "id=x"} {
			if _, err := os.Stat(filepath.Join(dir, loadedName)); err != nil {
				insert(t, dir, b) // another volume was asked for
			}
			r, info, err := s.Open(t.Context(), key)
			if err != nil {
				continue
			}
			n, err := io.Copy(io.Discard, r)
			if err == nil && info.SizeBytes >= 0 && n != info.SizeBytes {
				t.Errorf("%s: %d bytes of %d and no error", key, n, info.SizeBytes)
			}
			_ = r.Close() // the drive may have said what it has to
		}
		for i, err := range s.List(t.Context(), "") {
			if err == nil && (i.Key == "" || i.SizeBytes < 0) {
				t.Errorf("list has %+v", i)
			}
		}
		want := content(3000, 3)
		if err := put(t, s, "new", want, sinks.CreateOptions{Overwrite: true}); err == nil {
			mustGet(t, s, "new", want)
		}
	})
}

// FuzzParse takes targets apart.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"/dev/nst0", "/dev/nst0?file=3", "/t?key=a/&block=64K&fixed=1", "/t?block=500", "%2f?capacity=9T&wait=3s", "/t?id=x&file=1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, rest string) {
		tg := sinks.Target{Scheme: "tape", Rest: rest}
		o, err := parse(tg)
		if err != nil {
			return
		}
		key := o.key
		if !goodBlock(o.block) || o.buffer < 1 || o.wait < 0 || o.path == "" || strings.ContainsRune(o.path+key, 0) {
			t.Errorf("%q: %+v, key %q", rest, o, key)
		}
	})
}

// FuzzTap reads the file of a cartridge, of any content.
func FuzzTap(f *testing.F) {
	f.Add(tapOf(f, []byte("abc"), nil, []byte("d")))
	f.Add([]byte{3, 0, 0, 0, 'a', 'b', 'c', 0, 3, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "tape")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		tap, err := openTap(path, true)
		if err != nil {
			t.Fatal(err)
		}
		defer tap.f.Close()
		if tap.end > int64(len(b)) {
			t.Errorf("%d bytes of %d", tap.end, len(b))
		}
		n := len(tap.blocks)
		if err := errors.Join(tap.append([]byte("odd")), tap.append(nil)); err != nil {
			t.Fatal(err)
		}
		other, err := openTap(path, false)
		if err != nil {
			t.Fatal(err)
		}
		defer other.f.Close()
		if len(other.blocks) < n+2 {
			t.Errorf("%d blocks, %d were there and two more were written", len(other.blocks), n)
		}
	})
}
