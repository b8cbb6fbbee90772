// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vmdk"
)

// Sink takes what a stream holds, in the stream's order. Nothing that it has
// taken is known to be good before Read returns without an error.
type Sink interface {
	// Begin gets the opening record.
	Begin(o *Opening) error
	// File returns where a file of the VM goes, or nil to pass over it. The
	// reader closes it; an error of Close counts.
	File(f *FileInfo) (io.WriteCloser, error)
	// Disk returns where the disk of index i in the opening record goes, or
	// nil to pass over it. The reader neither closes nor aborts it.
	Disk(i int) (disk.Writer, error)
}

// FileInfo describes a file of the VM as it is in the stream.
type FileInfo struct {
	Record FileRecord
	Size   int64
	Mode   int64
	Mtime  int64 // seconds since 1970
}

// ReadOptions say how a stream is read. The zero value is good.
type ReadOptions struct {
	Workers     int   // 0: one for each processor
	MemoryBytes int64 // bound of the buffers; 0: DefaultMemoryBytes
	Counters    *Counters
	// NoDigests leaves the digests out, and with them the proof that the
	// content is what was backed up. The structure is checked all the same.
	NoDigests bool
	// File is the input once more, if it can be read at any offset: then
	// workers read for themselves what they check, while it is in their cache.
	// Read still goes from the beginning to the end, and leaves r where it was.
	File *FileInput
	// Part has disks passed over that nobody wants. It is for a single stream.
	Part *Part
}

// FileInput is a stream in something that can be read at any offset.
type FileInput struct {
	R      io.ReaderAt
	Offset int64 // of the stream's first byte
}

// ErrTarget marks a failure of a Sink, so that a caller can tell it from
// damage of the stream.
var ErrTarget = errors.New("write the target")

// Read reads a stream from r to its end and checks all of it: every digest,
// the metadata of every extent, descriptors, SHA256SUMS, the end record, and
// that nothing follows. What it holds goes to sink, which may be nil.
//
// Any damage gives an error for which errors.Is finds disk.ErrCorrupt,
// disk.ErrTruncated or disk.ErrUnsupported; errors of the sink have ErrTarget;
// anything else is trouble with reading r.
func Read(ctx context.Context, r io.Reader, sink Sink, o ReadOptions) (*Result, error) {
	o.prepare()
	in := newInput(r, &o)
	defer in.close()
	d := &streamReader{opt: o, input: in, sink: sink}
	return d.read(ctx)
}

func (o *ReadOptions) prepare() {
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	if o.Counters == nil {
		o.Counters = new(Counters)
	}
}

// read reads the stream that the input stands at.
func (d *streamReader) read(ctx context.Context) (*Result, error) {
	if err := d.input.begin(); err != nil {
		return nil, err
	}
	d.in, d.seek = d.input.tar(), d.input.skipper()
	d.count, d.headers = d.opt.Counters, sha256.New()
	res, err := d.run(ctx)
	if err != nil {
		return nil, d.explain(err)
	}
	res.OutBytes = d.count.Out.Load()
	return res, nil
}

// explain turns the end of the input where there must be more into damage.
func (d *streamReader) explain(err error) error {
	eof := (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)) && !errors.Is(err, ErrTarget)
	if !eof {
		return err
	}
	if _, perr := d.input.buf.Peek(1); perr == nil && d.input.series { // frames end there, the input does not
		return &disk.FormatError{Format: "stream", Field: d.where, Offset: d.tar, Err: disk.ErrCorrupt, Detail: "there is no frame where one must start"}
	}
	return &disk.FormatError{Format: "stream", Field: d.where, Offset: d.tar, Err: disk.ErrTruncated, Detail: "the stream ends here: it is not a whole backup"}
}

type streamReader struct {
	opt   ReadOptions
	input *input
	in    io.Reader
	seek  *skipper // d.in, if it can be skipped over; else nil
	sink  Sink
	count *Counters

	before *Opening // of the stream before, if there is one
	more   bool     // something follows; valid at the end

	opening *Opening

	// What follows belongs to who holds mu: the position in the stream.
	mu      sync.Mutex
	tar     int64           // bytes of tar read
	where   string          // what is being read, for messages
	members []*MemberRecord // the records do not move: workers fill in digests
	headers hash.Hash       // of the members' headers
	disks   []diskState
	files   map[string]int // index in the opening record
	current int            // disk being read
	ended   bool           // all disks are through
	parts   bool           // members have been passed over
	turn    chan struct{}  // closed when the last extent taken has been dealt with
}

// diskState is how far a disk has been read.
type diskState struct {
	rec     *DiskRecord
	next    int64 // bytes covered by extents so far
	size    int64
	extents []vmdk.Extent
	target  disk.Writer
	opened  bool
	total   DiskTotals
}

func (d *streamReader) run(ctx context.Context) (*Result, error) {
	d.where = "opening record"
	if err := d.readOpening(); err != nil {
		return nil, err
	}
	m, err := d.readFiles(ctx)
	if err != nil {
		return nil, err
	}
	if err := d.readDisks(ctx, m); err != nil {
		return nil, err
	}
	return d.readEnd()
}

// readOpening reads the first member.
func (d *streamReader) readOpening() error {
	first, n, err := readHeader(d.in)
	if err != nil {
		if errors.Is(err, disk.ErrCorrupt) {
			return &disk.FormatError{Format: "stream", Field: "first member", Offset: 0, Err: disk.ErrCorrupt, Detail: "this is no vmstream stream (or its first bytes are damaged): " + err.Error()}
		}
		return err
	}
	if first == nil || first.size > maxOpeningSize {
		return recordError("first member", "this is no vmstream stream")
	}
	b, err := d.content(first, n)
	if err != nil {
		return err
	}
	if d.opening, err = ParseOpening(b); err != nil {
		return err
	}
	o := d.opening
	if first.name != o.Name+"/"+OpeningName {
		return recordError("first member", "is called %q", first.name)
	}
	if d.before != nil {
		if err := o.Follows(d.before); err != nil {
			return err
		}
	}
	first.name = OpeningName
	d.begin(first, 0, b)
	d.files = map[string]int{}
	for i := range o.Files {
		d.files[o.Files[i].Name] = i
		d.count.Total.Add(o.Files[i].SizeBytes)
	}
	d.disks = make([]diskState, len(o.Disks))
	for i := range o.Disks {
		r := &o.Disks[i]
		d.disks[i] = diskState{rec: r, size: r.Sectors() * disk.SectorSize, total: DiskTotals{Key: r.Key, File: r.File, CapacityBytes: r.CapacityBytes}}
		d.count.Total.Add(r.CapacityBytes)
	}
	if d.sink != nil {
		return target(d.sink.Begin(o))
	}
	return nil
}

func target(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrTarget, err)
}

// begin notes a member whose header was at offset; its digest is that of
// content, or comes later if content is nil.
func (d *streamReader) begin(h *member, offset int64, content []byte) *MemberRecord {
	d.headers.Write(h.raw)
	m := &MemberRecord{Name: h.name, Tar: offset, Size: h.size}
	d.members = append(d.members, m)
	if content != nil && !d.opt.NoDigests {
		sum := sha256.Sum256(content)
		m.setDigest(sum[:])
	}
	return m
}

// header reads the next header; its name comes without the directory. A nil
// member is the end of the tar.
func (d *streamReader) header() (*member, int64, error) {
	d.where = "tar header"
	m, n, err := readHeader(d.in)
	if err != nil || m == nil {
		return nil, n, err
	}
	dir := d.opening.Name + "/"
	if len(m.name) <= len(dir) || m.name[:len(dir)] != dir {
		return nil, 0, recordError("tar header", "member %q is not in %q", m.name, dir)
	}
	m.name = m.name[len(dir):]
	d.where = m.name
	return m, n, nil
}

// content reads a small member whole; the caller has checked its size.
func (d *streamReader) content(m *member, header int64) ([]byte, error) {
	b, err := readWhole(d.in, m.size+padding(m.size))
	if err != nil {
		return nil, err
	}
	d.passed(header + int64(len(b)))
	if !disk.IsZero(b[m.size:]) {
		return nil, recordError(m.name, "what fills up its last block is not zero")
	}
	return b[:m.size], nil
}

func (d *streamReader) passed(n int64) {
	d.tar += n
	d.count.Tar.Store(d.tar)
}

// readFiles reads the VM's other files and returns the header behind them.
func (d *streamReader) readFiles(ctx context.Context) (*pending, error) {
	last := -1
	for {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		m, n, err := d.header()
		if err != nil {
			return nil, err
		}
		if m == nil {
			return nil, recordError("stream", "the tar ends before its end record")
		}
		i, ok := d.files[m.name]
		if !ok {
			return &pending{m, n}, nil
		}
		if i <= last {
			return nil, recordError(m.name, "is out of order")
		}
		last = i
		if err := d.file(m, n, i); err != nil {
			return nil, err
		}
	}
}

// pending is a header that has been read and belongs to the next stage.
type pending struct {
	m *member
	n int64
}

func (d *streamReader) file(m *member, header int64, i int) (err error) {
	var w io.WriteCloser
	if d.sink != nil {
		w, err = d.sink.File(&FileInfo{Record: d.opening.Files[i], Size: m.size, Mode: m.mode, Mtime: m.modTime.Unix()})
		if err != nil {
			return target(err)
		}
	}
	if w != nil {
		defer func() {
			if cerr := w.Close(); cerr != nil && err == nil {
				err = target(cerr)
			}
		}()
	}
	rec := d.begin(m, d.tar, nil)
	sum := sha256.New()
	buf := make([]byte, 256<<10)
	for left := m.size; left > 0; {
		b := buf[:min(int64(len(buf)), left)]
		if _, err := io.ReadFull(d.in, b); err != nil {
			return eofUnexpected(err)
		}
		if !d.opt.NoDigests {
			sum.Write(b)
		}
		if w != nil {
			if _, err := w.Write(b); err != nil {
				return target(err)
			}
		}
		left -= int64(len(b))
	}
	if !d.opt.NoDigests {
		rec.setDigest(sum.Sum(nil))
	}
	d.count.Done.Add(m.size)
	return d.pad(m, header)
}

// pad reads what fills up the last block of a member whose content has been read.
func (d *streamReader) pad(m *member, header int64) error {
	var pad [blockSize]byte
	b := pad[:padding(m.size)]
	if _, err := io.ReadFull(d.in, b); err != nil {
		return eofUnexpected(err)
	}
	if !disk.IsZero(b) {
		return recordError(m.name, "what fills up its last block is not zero")
	}
	d.passed(header + m.size + int64(len(b)))
	return nil
}

// readDisks reads all extents and descriptors; several workers share the
// input and take a member each.
func (d *streamReader) readDisks(ctx context.Context, first *pending) error {
	d.turn = make(chan struct{})
	close(d.turn)
	if len(d.disks) == 0 {
		d.ended = true
	}
	room := extentRoom(d.largestSegment())
	memory := d.opt.MemoryBytes
	if memory == 0 {
		memory = max(DefaultMemoryBytes, room)
	}
	// An extent that does not fit the memory is read piece by piece, by one.
	workers := int(min(int64(d.opt.Workers)+1, max(memory/room, 1)))
	x := &extentReader{d: d, first: first, hold: memory >= room}
	g, ctx := errgroup.WithContext(ctx)
	for range workers {
		g.Go(func() error { return x.work(ctx, int(room)) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return x.leftOver()
}

// largestSegment returns what the largest packed segment covers.
func (d *streamReader) largestSegment() int64 {
	n := int64(vmdk.GrainBytes)
	for i := range d.disks {
		n = max(n, min(d.opening.ExtentBytes, d.disks[i].size))
	}
	return n
}

type countingReader struct {
	r io.Reader
	n interface{ Add(int64) int64 }
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}
