// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vmstream/vmstream/internal/readahead"
	"github.com/vmstream/vmstream/internal/writeback"
	"github.com/vmstream/vmstream/sinks"
)

// pieceForm is the name of a piece: NAME.002of017. Both numbers have as many digits.
var pieceForm = regexp.MustCompile(`^(.+)\.([0-9]+)of([0-9]+)$`)

const (
	minPieceDigits = 3
	maxPieceDigits = 9
	maxPieces      = 100_000
)

// piece is a file that is a part of an object.
type piece struct {
	name string // with its directory; empty if it is missing
	fi   fs.FileInfo
}

// pieces are the files of an object that was split. The first one is there if, and as
// long as, the object is.
type pieces struct {
	key    string
	digits int
	all    []piece
}

func pieceName(key string, n, count, digits int) string {
	return fmt.Sprintf("%s.%0*dof%0*d", key, digits, n, digits, count)
}

// parsePiece takes the base name of a piece apart.
func parsePiece(base string) (name string, n, count, digits int, ok bool) {
	m := pieceForm.FindStringSubmatch(base)
	if m == nil || len(m[2]) != len(m[3]) || len(m[2]) < minPieceDigits || len(m[2]) > maxPieceDigits || partForm.MatchString(base) {
		return "", 0, 0, 0, false
	}
	n, _ = strconv.Atoi(m[2]) // at most 9 digits
	count, _ = strconv.Atoi(m[3])
	if n < 1 || n > count || count > maxPieces {
		return "", 0, 0, 0, false
	}
	return m[1], n, count, len(m[2]), true
}

// isPiece reports if a base name is that of a piece.
func isPiece(base string) bool {
	_, _, _, _, ok := parsePiece(base)
	return ok
}

// set identifies the pieces of one object: two may be of one key when one of them is
// being replaced.
type set struct {
	key           string
	count, digits int
}

// group sorts the pieces of a directory by the objects that they are of.
func group(dir string, entries []fs.DirEntry) (map[set]*pieces, error) {
	sets := map[set]*pieces{}
	for _, e := range entries {
		name, n, count, digits, ok := parsePiece(e.Name())
		if !ok || !e.Type().IsRegular() {
			continue
		}
		fi, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		id := set{path.Join(dir, name), count, digits}
		if sets[id] == nil {
			sets[id] = &pieces{key: id.key, digits: digits, all: make([]piece, count)}
		}
		sets[id].all[n-1] = piece{path.Join(dir, e.Name()), fi}
	}
	return sets, nil
}

// newest returns the set of a key that counts: that whose first piece came last.
func newest(sets map[set]*pieces, key string) *pieces {
	var best *pieces
	for id, p := range sets {
		if id.key != key || p.all[0].name == "" {
			continue
		}
		if best == nil || p.all[0].fi.ModTime().After(best.all[0].fi.ModTime()) ||
			p.all[0].fi.ModTime().Equal(best.all[0].fi.ModTime()) && p.digits > best.digits {
			best = p
		}
	}
	return best
}

// findPieces returns the pieces of a key, [fs.ErrNotExist] if there are none.
func findPieces(root *os.Root, key string) (*pieces, error) {
	sets, err := setsIn(root, path.Dir(key))
	if err != nil {
		return nil, err
	}
	if p := newest(sets, key); p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("file sink: %s: %w", key, fs.ErrNotExist)
}

func setsIn(root *os.Root, dir string) (map[set]*pieces, error) {
	entries, err := fs.ReadDir(root.FS(), dir)
	if err != nil {
		return nil, err
	}
	return group(dir, entries)
}

// info tells of the object. A piece that is missing is an error.
func (p *pieces) info() (sinks.Info, error) {
	info := sinks.Info{Key: p.key}
	var version strings.Builder
	for i := range p.all {
		if p.all[i].name == "" {
			return sinks.Info{}, fmt.Errorf("file sink: %s: piece %d of %d, %s, is missing: %w", p.key, i+1, len(p.all), pieceName(p.key, i+1, len(p.all), p.digits), io.ErrUnexpectedEOF)
		}
		fi := p.all[i].fi
		info.SizeBytes += fi.Size()
		if fi.ModTime().After(info.Modified) {
			info.Modified = fi.ModTime()
		}
	}
	first, last := p.all[0].fi, p.all[len(p.all)-1].fi
	fmt.Fprintf(&version, "%d-%d-%d-%d%s", len(p.all), info.SizeBytes, first.ModTime().UnixNano(), last.ModTime().UnixNano(), inode(first))
	info.Version = version.String()
	return info, nil
}

// remove removes the pieces; the first one, and with it the object, before the others.
func (p *pieces) remove(root *os.Root) error {
	var errs []error
	for _, f := range p.all {
		if f.name != "" {
			errs = append(errs, root.Remove(f.name))
		}
		if len(errs) == 1 && errs[0] != nil {
			return errs[0] // nothing has been removed
		}
	}
	return errors.Join(errs...)
}

// pieceReader reads the pieces of an object. Each read opens what it needs: there may
// be more pieces than files that may be open.
type pieceReader struct {
	ctx    context.Context
	root   *os.Root
	info   sinks.Info
	pieces *pieces
	starts []int64 // of each piece
	places readahead.Places
}

func newPieceReader(ctx context.Context, root *os.Root, p *pieces) (*pieceReader, error) {
	info, err := p.info()
	if err != nil {
		return nil, err
	}
	r := &pieceReader{ctx: ctx, root: root, info: info, pieces: p}
	var at int64
	for i := range p.all {
		r.starts = append(r.starts, at)
		at += p.all[i].fi.Size()
	}
	return r, nil
}

func (r *pieceReader) Info() sinks.Info { return r.info }
func (r *pieceReader) Close() error     { return nil }

func (r *pieceReader) ReadAt(p []byte, off int64) (int, error) {
	switch {
	case off < 0:
		return 0, fmt.Errorf("file sink: %s: negative offset", r.info.Key)
	case off >= r.info.SizeBytes:
		return 0, io.EOF
	}
	done := 0
	for done < len(p) && off < r.info.SizeBytes {
		if err := context.Cause(r.ctx); err != nil {
			return done, err
		}
		n, err := r.readPiece(p[done:], off)
		done, off = done+n, off+int64(n)
		if err != nil {
			return done, err
		}
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

// readPiece reads from the piece that has a byte.
func (r *pieceReader) readPiece(p []byte, off int64) (int, error) {
	i, found := slices.BinarySearch(r.starts, off)
	if !found {
		i--
	}
	for r.pieces.all[i].fi.Size() == 0 {
		i++ // one of several that begin there
	}
	want := r.pieces.all[i]
	f, err := openRegular(r.root, want.name)
	if err != nil {
		return 0, err
	}
	defer f.Close() // only read
	fi, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if infoOf(want.name, fi).Version != infoOf(want.name, want.fi).Version {
		return 0, fmt.Errorf("file sink: %s has changed while it was read", want.name)
	}
	in := off - r.starts[i]
	n, err := r.places.ReadAt(f, p[:min(int64(len(p)), fi.Size()-in)], in)
	if err == io.EOF && n > 0 {
		err = nil
	}
	if err == io.EOF {
		err = fmt.Errorf("file sink: %s was cut short while it was read: %w", want.name, io.ErrUnexpectedEOF)
	}
	return n, err
}

// splitWriter writes pieces of a given size.
type splitWriter struct {
	ctx       context.Context
	s         *sink
	root      *os.Root
	key       string
	overwrite bool

	parts []string        // temporary names of the pieces so far
	file  *writeback.File // the last one, nil if it is complete
	room  int64           // that is left in it
	size  int64
	err   error
	ended bool
}

func (w *splitWriter) Write(p []byte) (int, error) {
	if w.ended {
		return 0, errEnded
	}
	done := 0
	for w.err == nil && done < len(p) {
		if w.err = context.Cause(w.ctx); w.err != nil {
			break
		}
		if w.room == 0 {
			if w.err = w.next(); w.err != nil {
				break
			}
		}
		n, err := w.file.Write(p[done : done+int(min(int64(len(p)-done), w.room))])
		done, w.room, w.size, w.err = done+n, w.room-int64(n), w.size+int64(n), err
	}
	return done, w.err
}

// next completes a piece and begins another.
func (w *splitWriter) next() error {
	if err := w.complete(); err != nil {
		return err
	}
	if len(w.parts) == maxPieces {
		return fmt.Errorf("file sink: %s: more than %d pieces: choose a larger split", w.key, maxPieces)
	}
	f, part, err := newPart(w.root, w.key, w.s.mode)
	if err != nil {
		return err
	}
	w.file, w.room, w.parts = f, w.s.split, append(w.parts, part)
	return nil
}

func (w *splitWriter) complete() error {
	if w.file == nil {
		return nil
	}
	err := errors.Join(w.file.Sync(), w.file.Close())
	w.file = nil
	return err
}

func (w *splitWriter) Commit(ctx context.Context, end sinks.End) (sinks.Info, error) {
	if w.ended {
		return sinks.Info{}, errEnded
	}
	w.ended = true
	err := errors.Join(w.err, context.Cause(w.ctx), context.Cause(ctx))
	if err == nil && w.size != end.SizeBytes {
		err = fmt.Errorf("file sink: %s has %d bytes and should have %d: %w", w.key, w.size, end.SizeBytes, sinks.ErrShort)
	}
	if err == nil && len(w.parts) == 0 { // an object without bytes has a piece, too
		err = w.next()
	}
	if err = errors.Join(err, w.complete()); err == nil {
		err = w.publish()
	}
	if err != nil {
		return sinks.Info{}, errors.Join(err, w.remove())
	}
	if err := syncDir(w.root, path.Dir(w.key)); err != nil {
		return sinks.Info{}, fmt.Errorf("file sink: %s has its names, but its directory may not be on the disk: %w: %w", w.key, err, sinks.ErrUnknown)
	}
	p, err := findPieces(w.root, w.key)
	if err != nil {
		return sinks.Info{}, fmt.Errorf("%w: %w", err, sinks.ErrUnknown)
	}
	return p.info()
}

// publish gives the pieces their names, the first one last: with it the object is there.
// The directory is locked, so that of two runs one is first.
func (w *splitWriter) publish() error {
	dir := path.Dir(w.key)
	d, err := w.root.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close() // ends the lock
	if err := lock(d, true); err != nil {
		return err
	}
	if err := mayCreate(w.root, w.key, w.overwrite); err != nil {
		return err
	}
	sets, err := setsIn(w.root, dir)
	if err != nil {
		return err
	}
	digits := max(minPieceDigits, len(strconv.Itoa(len(w.parts))))
	for sets[set{w.key, len(w.parts), digits}] != nil { // the names are taken: more zeros make others
		digits++
	}
	if digits > maxPieceDigits {
		return fmt.Errorf("file sink: %s: pieces of too many runs are there: remove them first", w.key)
	}
	for i := len(w.parts) - 1; i >= 0; i-- {
		name := pieceName(w.key, i+1, len(w.parts), digits)
		if i == 0 && len(w.parts) > 1 { // all others are for good before the first one tells of them
			if err := syncDir(w.root, dir); err != nil {
				return err
			}
		}
		if i == 0 { // what is newest counts
			now := time.Now()
			_ = w.root.Chtimes(w.parts[0], now, now)
		}
		if err := publish(w.root, w.parts[i], name); err != nil {
			return err
		}
		w.parts[i] = name
	}
	w.replaceOthers(sets)
	w.parts = nil
	return nil
}

// replaceOthers removes what this object replaces. What stays does not count.
func (w *splitWriter) replaceOthers(sets map[set]*pieces) {
	for id, p := range sets {
		if id.key == w.key {
			_ = p.remove(w.root)
		}
	}
	if fi, err := w.root.Lstat(w.key); err == nil && fi.Mode().IsRegular() {
		_ = w.root.Remove(w.key)
	}
}

// remove removes what was written, also pieces that have their names already.
func (w *splitWriter) remove() error {
	var errs []error
	for _, name := range w.parts {
		if err := w.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	w.parts = nil
	return errors.Join(errs...)
}

// Abort removes the pieces also when ctx has ended.
func (w *splitWriter) Abort(context.Context) error {
	if w.ended {
		return nil
	}
	w.ended = true
	if w.file != nil {
		_ = w.file.Close() // its bytes are not wanted
	}
	return w.remove()
}
