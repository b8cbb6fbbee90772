// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"bytes"
	"reflect"
	"testing"
	"time"

	"github.com/vmstream/vmstream/stream/codec"
)

func TestFindIndex(t *testing.T) {
	for _, name := range codec.Names() {
		var b bytes.Buffer
		res, err := Write(t.Context(), &b, nil, nil, Options{
			ID: "find", Tool: "test", Name: "vm", Created: time.Unix(1e9, 0), Codec: codec.Spec{Name: name},
		})
		if err != nil {
			t.Fatal(err)
		}
		got, err := FindIndex(bytes.NewReader(b.Bytes()), int64(b.Len()))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !bytes.Equal(got.IndexJSON, res.IndexJSON) || !reflect.DeepEqual(got.Opening, res.Opening) || got.TarBytes != res.TarBytes {
			t.Errorf("%s: found something else than was written: %+v, %+v", name, got, res)
		}
		for cut := 1; cut < b.Len(); cut += 7 {
			if _, err := FindIndex(bytes.NewReader(b.Bytes()[:b.Len()-cut]), int64(b.Len()-cut)); err == nil {
				t.Errorf("%s: an index was found with %d bytes cut off", name, cut)
			}
		}
	}
}

func FuzzFindIndex(f *testing.F) {
	for _, name := range codec.Names() {
		var b bytes.Buffer
		if _, err := Write(f.Context(), &b, nil, nil, Options{
			ID: "find", Tool: "test", Name: "vm", Created: time.Unix(1e9, 0), Codec: codec.Spec{Name: name},
		}); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Fuzz(func(_ *testing.T, b []byte) {
		_, _ = FindIndex(bytes.NewReader(b), int64(len(b))) // must end, and not panic
	})
}
