// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package tape

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// archive is a label with this text.
func archive(t *testing.T, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := w.WriteHeader(&tar.Header{Name: labelName, Mode: 0o644, Size: int64(len(text)), Format: tar.FormatUSTAR})
	_, werr := w.Write([]byte(text))
	if err = errors.Join(err, werr, w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestRecordRefuses has what this program does not write not be taken.
func TestRecordRefuses(t *testing.T) {
	label := func(more string) string {
		return `{"format":1,"set":"s","name":"n","volume":1,"file":0,"block_bytes":512,"used_bytes":0,` + more + `}`
	}
	one := func(more string) string { return label(`"streams":[{"key":"a","stream":"x",` + more + `}]`) }
	if _, err := parseRecord(archive(t, one(`"size_bytes":3,"parts":[{"volume":1,"file":1,"bytes":3}]`))); err != nil {
		t.Fatal(err)
	}
	if _, err := parseRecord(archive(t, label(`"streams":null`))); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		`{}`, `[]`, `{"format":2}`, label(`"streams":{}`), label(`"streams":[1]`), label(`"file":2,"streams":[]`), label(`"volume":0,"streams":[]`),
		label(`"block_bytes":513,"streams":[]`), label(`"block_bytes":1073741824,"streams":[]`), label(`"used_bytes":-1,"streams":[]`),
		label(`"continues":{"bytes":-5},"streams":[]`),
		label(`"streams":[` + strings.Repeat("{},", maxStreams) + `{}]`),
		one(`"size_bytes":3,"parts":[` + strings.Repeat("{},", maxParts) + `{}]`),
		one(`"size_bytes":3`), one(`"size_bytes":3,"parts":[{"volume":1,"file":2,"bytes":3}]`), one(`"size_bytes":4,"parts":[{"volume":1,"file":1,"bytes":3}]`),
		one(`"size_bytes":-1,"parts":[{"volume":1,"file":1,"bytes":3}]`),
		one(`"size_bytes":6,"parts":[{"volume":1,"file":1,"bytes":3},{"volume":3,"file":1,"bytes":3}]`),
		one(`"size_bytes":-2,"parts":[{"volume":1,"file":1,"bytes":4611686018427387904},{"volume":2,"file":1,"bytes":9223372036854775806}]`),
	} {
		if _, err := parseRecord(archive(t, text)); !errors.Is(err, errNoRecord) {
			t.Errorf("%.100s: %v", text, err)
		}
	}
}

// TestNames has what there is be told in a line.
func TestNames(t *testing.T) {
	r := &record{}
	if got := r.names(); got != "no streams" {
		t.Error(got)
	}
	for i := range 12 {
		r.Streams = append(r.Streams, entry{Key: fmt.Sprint("k", i), Parts: parts{{1, 2*i + 1, 0}}})
	}
	if got := r.names(); !strings.HasPrefix(got, "12 streams, the newest of them k2 (volume 1, file 5), k3") || r.only() != nil {
		t.Error(got)
	}
}
