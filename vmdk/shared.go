// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"fmt"
	"sync"

	"github.com/vmstream/vmstream/internal/lru"
)

// Memory of one opened disk, whatever the number of its links and extents.
const (
	tableCacheBytes = 8 << 20
	grainCacheBytes = 8 << 20

	// maxDirectoryEntries bounds the grain directories, which stay in memory:
	// 4 bytes an entry, and 4 again for each table in the sorted list.
	maxDirectoryEntries = 8 << 20

	// eagerTableBytes bounds how much of the grain tables Open reads to look
	// for grains used twice. Check looks at all of them.
	eagerTableBytes = 16 << 20
)

// cacheKey names a grain table, or a grain, of one extent.
type cacheKey struct {
	extent uint32
	index  int64
}

// shared is what all extents of an opened disk have in common. The counters
// are used while opening only, by one goroutine.
type shared struct {
	tables *lru.Cache[cacheKey, grainTable]
	grains *lru.Cache[cacheKey, []byte]

	extents          uint32
	directoryEntries int64
	eagerLeft        int64

	tableScratch sync.Pool // of *tableScratch

	mu     sync.Mutex
	warn   func(string)
	warned map[string]struct{}
}

func newShared(warn func(string)) *shared {
	return &shared{
		tables:    lru.New[cacheKey, grainTable](tableCacheBytes),
		grains:    lru.New[cacheKey, []byte](grainCacheBytes),
		eagerLeft: eagerTableBytes,
		warn:      warn,
		warned:    map[string]struct{}{},
	}
}

// tableScratch is room for a grain table while it is being read.
type tableScratch struct {
	raw []byte
	runJoiner
}

// scratch returns room for a table of so many bytes; see [grainExtent.scratch].
func (s *shared) scratch(tableBytes int64) *tableScratch {
	t, ok := s.tableScratch.Get().(*tableScratch)
	if !ok {
		t = new(tableScratch)
	}
	if int64(cap(t.raw)) < tableBytes {
		t.raw = make([]byte, tableBytes)
	}
	t.raw = t.raw[:tableBytes]
	return t
}

func (s *shared) giveBack(t *tableScratch) { s.tableScratch.Put(t) }

// maxWarnings keeps a file full of oddities from flooding the caller.
const maxWarnings = 100

// warnf passes a message on, each text once. It is safe for concurrent use.
func (s *shared) warnf(format string, args ...any) {
	if s.warn == nil {
		return
	}
	text := fmt.Sprintf(format, args...)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.warned[text]; ok || len(s.warned) > maxWarnings {
		return
	}
	s.warned[text] = struct{}{}
	if len(s.warned) > maxWarnings {
		text = "further warnings about this disk are left out"
	}
	s.warn(text)
}

func (s *shared) nextID() uint32 {
	s.extents++
	return s.extents
}
