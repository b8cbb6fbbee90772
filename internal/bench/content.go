// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// The measured disk repeats this pattern, block by block, in every unit: what
// disks hold, in equal shares.
const (
	unitBytes  = 16 << 20
	shareBytes = unitBytes / 4
)

// The shares of a unit in their order.
type share int

const (
	random share = iota // does not compress
	text                // compresses about as English does
	zeros               // zeros that were written
	hole                // never written
	shares
)

// fill is a source of one share's content. It is not safe for concurrent use.
type fill struct {
	key  *rand.ChaCha8
	text *words
}

func newFill(seed uint64) *fill {
	var key [32]byte
	for i := range key {
		key[i] = byte(seed >> (i % 8 * 8))
	}
	r := rand.NewChaCha8(key)
	return &fill{key: r, text: newWords(rand.New(r))}
}

// write fills b with the share's content.
func (f *fill) write(b []byte, s share) {
	switch s {
	case random:
		_, _ = f.key.Read(b) // never fails
	case text:
		f.text.fill(b)
	default:
		clear(b)
	}
}

// words makes text of invented words, frequent and rare as in a language.
type words struct {
	rnd   *rand.Rand
	list  [][]byte
	draws [1 << 16]uint16 // an index of list for every 16 random bits
}

// dictionaryWords and the exponent of their frequencies give text that zstd
// level 1 makes 2.9 times smaller.
const dictionaryWords = 12000

func newWords(rnd *rand.Rand) *words {
	w := &words{rnd: rnd}
	syllables := []string{
		"an", "be", "cor", "da", "en", "fi", "gra", "ho", "in", "ka", "le", "mo", "nu", "or", "pre",
		"qui", "re", "sta", "ti", "un", "ver", "wo", "xi", "ya", "ze", "s", "ing", "ed", "er", "ly",
	}
	for range dictionaryWords {
		var b []byte
		for range 1 + rnd.IntN(4) {
			b = append(b, syllables[rnd.IntN(len(syllables))]...)
		}
		w.list = append(w.list, append(b, ' '))
	}
	w.weigh()
	return w
}

// weigh deals the draws out by Zipf's law: the word of rank n is drawn in
// proportion to 1/n.
func (w *words) weigh() {
	total := 0.0
	for i := range w.list {
		total += 1 / float64(i+1)
	}
	sum, rank := 0.0, 0
	for i := range w.draws {
		for rank < len(w.list)-1 && sum+1/float64(rank+1) < total*float64(i)/float64(len(w.draws)) {
			sum += 1 / float64(rank+1)
			rank++
		}
		w.draws[i] = uint16(rank)
	}
}

func (w *words) fill(b []byte) {
	line := 0
	for len(b) > 0 {
		bits := w.rnd.Uint64()
		for range 4 {
			word := w.list[w.draws[bits&0xffff]]
			bits >>= 16
			n := copy(b, word)
			if line += n; line > 72 {
				b[n-1] = '\n'
				line = 0
			}
			if b = b[n:]; len(b) == 0 {
				return
			}
		}
	}
}

// makeDisk returns the path of the disk of a size in dir, and makes it if it
// is not there. Its directory is named by its size and the version of its content.
func makeDisk(dir string, sizeBytes int64) (string, error) {
	name := filepath.Join(dir, fmt.Sprintf("%dM-v1", sizeBytes>>20), "disk.raw")
	if fi, err := os.Stat(name); err == nil && fi.Size() == sizeBytes {
		return name, nil
	}
	return name, create(name, sizeBytes, func(f *os.File) error {
		fl := newFill(uint64(sizeBytes))
		b := make([]byte, 1<<20)
		for off := int64(0); off < sizeBytes; off += int64(len(b)) {
			s := share(off % unitBytes / shareBytes)
			if s == hole {
				continue
			}
			fl.write(b, s)
			if _, err := f.WriteAt(b, off); err != nil {
				return err
			}
		}
		return nil
	})
}

// makeSparse returns the path of a disk of 1 TiB with 64 MiB of data in 64
// places.
func makeSparse(dir string) (string, error) {
	const (
		sizeBytes = 1 << 40
		pieces    = 64
	)
	name := filepath.Join(dir, "1T-v1", "sparse.raw")
	if fi, err := os.Stat(name); err == nil && fi.Size() == sizeBytes {
		return name, nil
	}
	return name, create(name, sizeBytes, func(f *os.File) error {
		fl := newFill(1)
		b := make([]byte, 1<<20)
		for i := range int64(pieces) {
			fl.write(b, random)
			if _, err := f.WriteAt(b, i*(sizeBytes/pieces)+i<<20); err != nil {
				return err
			}
		}
		return nil
	})
}

// create makes a file of a length that is there under its name only when it is
// whole.
func create(name string, sizeBytes int64, write func(*os.File) error) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	f, err := os.Create(name + ".part")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := f.Truncate(sizeBytes); err != nil {
		return err
	}
	if err := write(f); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// warm reads files, so that the page cache has what the measured runs read.
func warm(names ...string) error {
	b := make([]byte, 1<<20)
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		_, err = io.CopyBuffer(writerOnly{io.Discard}, f, b)
		f.Close()
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
	}
	return nil
}

// writerOnly hides ReadFrom, so that CopyBuffer uses its buffer.
type writerOnly struct{ io.Writer }
