// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package tape

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// formatVersion is that of labels and trailers.
const formatVersion = 1

// Names in the archives that labels and trailers are.
const (
	labelName   = "vmstream-tape/label.json"
	trailerName = "vmstream-tape/trailer.json"
	readmeName  = "vmstream-tape/README"
)

// Bounds of what a tape may say.
const (
	maxRecordBytes = 32 << 20
	maxStreams     = 50_000
	maxParts       = 1000
	maxName        = 1024
	minBlock       = 512
	maxBlock       = 8 << 20 // READ and WRITE have 24 bits for it
)

// record is a label or a trailer.
type record struct {
	Format     int       `json:"format"`
	Set        string    `json:"set"`    // id of the volumes that belong together
	Name       string    `json:"name"`   // of the set, for people
	Volume     int       `json:"volume"` // number in the set, from 1
	File       int       `json:"file"`   // tape file that this record is, 0 for a label
	BlockBytes int       `json:"block_bytes"`
	Fixed      bool      `json:"fixed"` // blocks, and padded with zeros at the end of a file
	Written    time.Time `json:"written"`
	// UsedBytes is about how much is on the volume before this record.
	UsedBytes int64 `json:"used_bytes"`
	// Continues says what the first file behind a label is the rest of.
	Continues *continuation `json:"continues,omitempty"`
	Streams   entries       `json:"streams"` // of the set so far

	trailer bool
}

// continuation is a stream of which a volume has more.
type continuation struct {
	Stream string `json:"stream"`
	Number int    `json:"number"`
	Bytes  int64  `json:"bytes"` // on the volumes before
}

// entry is a stream in the directory of a set.
type entry struct {
	Number int       `json:"number"` // from 1, as they were begun
	Key    string    `json:"key"`
	ID     string    `json:"id,omitempty"` // of the backup
	Stream string    `json:"stream"`       // what it is told from others by
	Stored time.Time `json:"stored"`
	Size   int64     `json:"size_bytes"` // -1 if it goes on
	Digest string    `json:"digest,omitempty"`
	// Continued says that the stream goes on with the next volume, where it may have
	// its end.
	Continued bool  `json:"continued,omitempty"`
	Parts     parts `json:"parts"`
}

// part is a tape file with bytes of a stream.
type part struct {
	Volume int   `json:"volume"`
	File   int   `json:"file"` // as mt fsf counts
	Bytes  int64 `json:"bytes"`
}

// Lists know how long they may be while they are read: a list of nothing much, which a
// tape may have, takes many times its length in memory.
type (
	entries []entry
	parts   []part
)

func (l *entries) UnmarshalJSON(b []byte) (err error) {
	*l, err = decodeList[entry](b, maxStreams)
	return err
}

func (l *parts) UnmarshalJSON(b []byte) (err error) {
	*l, err = decodeList[part](b, maxParts)
	return err
}

// decodeList reads a list of JSON with so many elements at most.
func decodeList[T any](b []byte, most int) ([]T, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	switch t, err := d.Token(); {
	case err == nil && t == nil: // null
		return nil, nil
	case err != nil || t != json.Delim('['):
		return nil, errors.Join(errors.New("this is no list"), err)
	}
	list := []T{}
	for d.More() {
		if len(list) == most {
			return nil, fmt.Errorf("a list of more than %d", most)
		}
		var e T
		if err := d.Decode(&e); err != nil {
			return nil, err
		}
		list = append(list, e)
	}
	return list, nil
}

var errNoRecord = errors.New("no label or trailer of vmstream")

// encode returns the record as a tar archive.
func (r *record) encode() ([]byte, error) {
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return nil, err
	}
	if len(text) > maxRecordBytes || len(r.Streams) > maxStreams {
		return nil, fmt.Errorf("the directory of this set is full, with %d streams: begin another", len(r.Streams))
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(name string, content []byte) {
		err = errors.Join(err, w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), ModTime: r.Written, Format: tar.FormatUSTAR}))
		_, werr := w.Write(content)
		err = errors.Join(err, werr)
	}
	if r.trailer {
		add(trailerName, append(text, '\n'))
	} else {
		add(labelName, append(text, '\n'))
		add(readmeName, []byte(r.readme()))
	}
	err = errors.Join(err, w.Close())
	return b.Bytes(), err
}

// readme tells how the tape is read without vmstream.
func (r *record) readme() string {
	mode, setblk := "blocks of up to", 0
	if r.Fixed {
		mode, setblk = "fixed blocks of", r.BlockBytes
	}
	return fmt.Sprintf(`This is volume %d of the tape set %q (%s), written by vmstream.
Tape file 0 is this label, a tar archive. Behind it each stream is a tape file, and the
file that follows it is a trailer: a tar archive with the directory of the set. Blocks
are %s %d bytes. The first stream without vmstream:

    mt -f /dev/nst0 rewind
    mt -f /dev/nst0 setblk %d
    mt -f /dev/nst0 fsf 1
    dd if=/dev/nst0 bs=%d | tar -xf -

A compressed stream goes through zstd -dc, lz4 -dc or xz -dc first. The next one is
file 3, and so on. A stream that goes on with the next volume is put together with cat;
its rest is file 1 there.
`, r.Volume, r.Name, r.Set, mode, r.BlockBytes, setblk, r.BlockBytes)
}

// isRecord reports if a tape file that begins with b may be a label or a trailer.
func isRecord(b []byte) bool {
	return len(b) >= minBlock && (headed(b, labelName) || headed(b, trailerName))
}

func headed(b []byte, name string) bool {
	return bytes.HasPrefix(b, append([]byte(name), 0))
}

// parseRecord reads a label or a trailer. What is none gives errNoRecord.
func parseRecord(b []byte) (*record, error) {
	if !isRecord(b) {
		return nil, errNoRecord
	}
	t := tar.NewReader(bytes.NewReader(b))
	h, err := t.Next()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoRecord, err)
	}
	if h.Size > maxRecordBytes || h.Typeflag != tar.TypeReg {
		return nil, fmt.Errorf("%w: a member of %d bytes", errNoRecord, h.Size)
	}
	text, err := io.ReadAll(io.LimitReader(t, maxRecordBytes))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoRecord, err)
	}
	r := &record{trailer: h.Name == trailerName}
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("%w: %w", errNoRecord, err)
	}
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", errNoRecord, err)
	}
	return r, nil
}

// check refuses what this program does not write.
func (r *record) check() error {
	switch {
	case r.Format != formatVersion:
		return fmt.Errorf("format %d, known is %d", r.Format, formatVersion)
	case r.Set == "" || len(r.Set) > maxName || len(r.Name) > maxName:
		return errors.New("the name of the set")
	case r.Volume < 1 || r.Volume > maxParts:
		return fmt.Errorf("volume %d", r.Volume)
	case !goodBlock(r.BlockBytes):
		return fmt.Errorf("blocks of %d bytes", r.BlockBytes)
	case r.trailer != (r.File > 0) || r.File%2 != 0 || r.File > 2*maxStreams:
		return fmt.Errorf("file %d", r.File)
	case r.UsedBytes < 0 || r.UsedBytes > 1<<62:
		return fmt.Errorf("%d bytes used", r.UsedBytes)
	case r.Continues != nil && r.Continues.Bytes < 0:
		return fmt.Errorf("continues %d bytes", r.Continues.Bytes)
	}
	for i := range r.Streams {
		if err := r.Streams[i].check(); err != nil {
			return fmt.Errorf("stream %d: %w", i+1, err)
		}
	}
	return nil
}

func goodBlock(n int) bool { return n >= minBlock && n <= maxBlock && n%minBlock == 0 }

func (e *entry) check() error {
	if len(e.ID) > maxName || len(e.Stream) > maxName || len(e.Digest) > maxName || e.Stream == "" {
		return errors.New("its ids")
	}
	if err := checkKey(e.Key); err != nil {
		return err
	}
	if len(e.Parts) == 0 {
		return fmt.Errorf("%d parts", len(e.Parts))
	}
	if e.Continued != (e.Size < 0) {
		return fmt.Errorf("%d bytes", e.Size)
	}
	var sum int64
	for i, p := range e.Parts {
		if p.Volume != e.Parts[0].Volume+i || p.Volume < 1 || p.Volume > maxParts || p.File < 1 || p.File%2 != 1 ||
			i > 0 && p.File != 1 || p.Bytes < 0 || sum > 1<<62-p.Bytes {
			return fmt.Errorf("part %d", i+1)
		}
		if sum += p.Bytes; p.Bytes > 1<<62 {
			return fmt.Errorf("part %d", i+1)
		}
	}
	if !e.Continued && sum != e.Size {
		return fmt.Errorf("%d bytes in parts of %d", e.Size, sum)
	}
	return nil
}
