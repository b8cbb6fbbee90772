// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/vmstream/vmstream/stream/codec"
)

// Index is the last member, vmstream-index.json: the end record. A stream
// without it is not a backup.
type Index struct {
	Format     string          `json:"format"`
	ID         string          `json:"id"`
	Codec      string          `json:"codec"`
	Opening    *Opening        `json:"opening"` // the opening record again: the index alone is enough to build on
	Warnings   []string        `json:"warnings,omitempty"`
	Disks      []DiskTotals    `json:"disks"`
	Tracks     []*DiskTrack    `json:"track,omitempty"` // of the disks with track_bytes, in their order
	Members    []*MemberRecord `json:"members"`
	SumsDigest string          `json:"sums_sha256"`
	// HeadersDigest is that of the tar headers of all members before this
	// one: SHA256SUMS has only what is in them.
	HeadersDigest string     `json:"headers_sha256"`
	End           *endRecord `json:"end,omitempty"`
}

// MemberRecord tells where a member is.
type MemberRecord struct {
	Name   string  `json:"name"`
	Tar    int64   `json:"tar_offset"`   // of its header in the tar
	Frame  int64   `json:"frame_offset"` // of the frame that begins with its header; Tar if there is no codec
	Size   int64   `json:"size_bytes"`
	SHA256 string  `json:"sha256"`
	Frames []int64 `json:"frames,omitempty"` // lengths of its frames, 1 MiB of tar each
}

func (m *MemberRecord) setDigest(sum []byte) { m.SHA256 = hex.EncodeToString(sum) }

// DiskTotals sums up a disk.
type DiskTotals struct {
	Key           string `json:"key"`
	File          string `json:"file"`
	CapacityBytes int64  `json:"capacity_bytes"`
	StoredBytes   int64  `json:"stored_bytes"` // grains in the stream
	ReadBytes     int64  `json:"read_bytes"`   // read from the source; the rest was known to be zero
	Extents       int64  `json:"extents"`
	EmptyExtents  int64  `json:"empty_extents"`
	OutBytes      int64  `json:"out_bytes"` // extents as they are in the stream, headers and compression included
}

// endRecord is the last block of the index. Its numbers have a fixed width, so
// that it always fills one block of the tar, the third from the end.
type endRecord struct {
	ID      string `json:"id"`
	Tar     string `json:"tar_offset"`   // of the index's header, 20 digits
	Size    string `json:"size_bytes"`   // of the index, 20 digits
	SHA256  string `json:"index_sha256"` // of the index up to this block
	Padding string `json:"padding"`
}

// encodeIndex returns the member's content. It ends with a block of its own,
// the end record, which has the digest of what is before it; being part of the
// JSON it needs no parser of its own in a program that reads all of it.
func encodeIndex(ix *Index, tarOffset int64) ([]byte, error) {
	ix.End = nil
	b, err := json.Marshal(ix)
	if err != nil {
		return nil, err
	}
	b = append(breakLines(b[:len(b)-1]), ',', '\n')
	b = append(b, bytes.Repeat([]byte{' '}, int(padding(int64(len(b)))))...)
	end, err := encodeEnd(ix.ID, tarOffset, int64(len(b))+blockSize, b)
	return append(b, end...), err
}

// breakLines puts each member on a line of its own, for people and diff.
func breakLines(b []byte) []byte {
	return bytes.ReplaceAll(b, []byte(`{"name":`), []byte("\n{\"name\":"))
}

func encodeEnd(id string, tarOffset, size int64, before []byte) ([]byte, error) {
	r := endRecord{ID: id, Tar: fmt.Sprintf("%020d", tarOffset), Size: fmt.Sprintf("%020d", size)}
	sum := sha256.Sum256(before)
	r.SHA256 = hex.EncodeToString(sum[:])
	for {
		b, err := json.Marshal(r)
		if err != nil {
			return nil, err
		}
		b = append([]byte(`"end":`), append(b, "}\n"...)...)
		if len(b) == blockSize {
			return b, nil
		}
		if len(b) > blockSize || r.Padding != "" {
			return nil, fmt.Errorf("end record: id %q is too long", id)
		}
		r.Padding = strings.Repeat(" ", blockSize-len(b))
	}
}

// ParseIndex reads the content of the index member and checks it against
// itself. tarOffset is where its header is, or -1 if that is not known.
func ParseIndex(b []byte, tarOffset int64) (*Index, error) {
	if len(b) < 2*blockSize || len(b)%blockSize != 0 {
		return nil, recordError("index", "%d bytes long", len(b))
	}
	// A member takes more than a hundred bytes.
	if n := countObjects(b); n > len(b)/64+maxOpeningObjects {
		return nil, recordError("index", "has %d objects in %d bytes", n, len(b))
	}
	ix := new(Index)
	if err := json.Unmarshal(b, ix); err != nil {
		return nil, recordError("index", "%v", err)
	}
	if ix.Format != IndexFormatName || (codec.Spec{Name: ix.Codec}).Validate() != nil || ix.Codec == "" || ix.End == nil || slices.Contains(ix.Members, nil) || len(ix.Members) == 0 {
		return nil, recordError("index", "format %q, codec %q, %d members", ix.Format, ix.Codec, len(ix.Members))
	}
	if ix.Opening == nil || ix.Opening.ID != ix.ID || ix.Opening.Format != FormatName {
		return nil, recordError("index", "has no opening record of backup %q", ix.ID)
	}
	if err := ix.Opening.validate(); err != nil {
		return nil, err
	}
	if err := ix.checkTracks(); err != nil {
		return nil, err
	}
	if tarOffset < 0 {
		if _, err := fmt.Sscanf(ix.End.Tar, "%d", &tarOffset); err != nil || tarOffset < 0 {
			return nil, recordError("end record", "tar_offset %q", ix.End.Tar)
		}
	}
	body, end := b[:len(b)-blockSize], b[len(b)-blockSize:]
	want, err := encodeEnd(ix.ID, tarOffset, int64(len(b)), body)
	if err != nil || !bytes.Equal(end, want) {
		return nil, recordError("end record", "does not fit the index before it or its place in the stream")
	}
	return ix, nil
}

// sums returns the SHA256SUMS member for these members.
func sums(members []*MemberRecord) []byte {
	var b bytes.Buffer
	for i := range members {
		b.WriteString(members[i].SHA256)
		b.WriteString("  ")
		b.WriteString(members[i].Name)
		b.WriteByte('\n')
	}
	return b.Bytes()
}

// sameMembers compares the members found in a stream with its index.
func (ix *Index) sameMembers(found []*MemberRecord) error {
	if len(ix.Members) != len(found) {
		return recordError("index", "lists %d members, the stream has %d", len(ix.Members), len(found))
	}
	for i := range found {
		f, w := found[i], ix.Members[i]
		if ix.Codec == codec.None && (w.Frame != w.Tar || len(w.Frames) != 0) {
			return recordError("index", "member %q has frames, but there is no codec", w.Name)
		}
		if f.Name != w.Name || f.Tar != w.Tar || f.Size != w.Size || f.SHA256 != "" && f.SHA256 != w.SHA256 {
			return recordError("index", "member %d is %q (%d bytes at %d), the stream has %q (%d bytes at %d) or its digest differs", i, w.Name, w.Size, w.Tar, f.Name, f.Size, f.Tar)
		}
	}
	return nil
}

// sameFrames compares the frames found in the compressed stream with the
// index. Another program may have compressed the tar anew: then nothing fits,
// and nothing is said; but where the frames are ours, all must fit.
func (ix *Index) sameFrames(r *codec.Reader) error {
	offsets, recorded := r.Frames()
	spec := codec.Spec{Name: r.Codec()}
	if ix.Codec != r.Codec() || !recorded || len(offsets) == 0 || len(ix.Members) == 0 {
		return nil
	}
	if p := r.Pointer(); spec.HasPointer() && p == nil {
		f := ix.Members[0].Frames
		if len(f) == 0 || len(offsets) < 2 || offsets[1]-offsets[0] != f[0] {
			return nil // not our frames
		}
		return recordError("end of stream", "the pointer behind the last frame is missing")
	}
	next := 0
	for i := range ix.Members {
		m := ix.Members[i]
		if next >= len(offsets) || m.Frame != offsets[next] {
			if !spec.HasPointer() && i == 0 {
				return nil
			}
			return recordError("index", "frame of member %q is not at %d", m.Name, m.Frame)
		}
		for _, length := range m.Frames {
			if next+1 >= len(offsets) || offsets[next+1]-offsets[next] != length {
				if !spec.HasPointer() && i == 0 {
					return nil
				}
				return recordError("index", "a frame of member %q is not %d bytes long", m.Name, length)
			}
			next++
		}
	}
	// Without a pointer the index is one frame, and the last.
	if !spec.HasPointer() && next+2 != len(offsets) {
		return recordError("end of stream", "frames follow the end record")
	}
	if p := r.Pointer(); p != nil && (next >= len(offsets) || p.IndexFrame != offsets[next]) {
		return recordError("end of stream", "the pointer says %d for the index", p.IndexFrame)
	}
	return nil
}
