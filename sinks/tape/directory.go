// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package tape

import (
	"fmt"
	"slices"
	"strings"

	"github.com/vmstream/vmstream/sinks"
)

func (e *entry) info() sinks.Info {
	return sinks.Info{Key: e.Key, SizeBytes: e.Size, Modified: e.Stored, Version: e.Stream}
}

// named finds what a key means, the newest of that name.
func (r *record) named(key string, volume int) *entry {
	if id, ok := strings.CutPrefix(key, idForm); ok {
		return r.find(func(e *entry) bool { return e.ID == id })
	}
	if f, ok := strings.CutPrefix(key, fileForm); ok {
		n, err := parseFile(f)
		return r.find(func(e *entry) bool { return err == nil && e.Parts[0] == part{volume, n, e.Parts[0].Bytes} })
	}
	return r.find(func(e *entry) bool { return e.Key == key })
}

// opened finds what a key means to somebody who reads: what is listed, and otherwise
// what goes on with the next volume.
func (r *record) opened(key string, volume int) *entry {
	if key == "" {
		return r.only()
	}
	if e := r.committed().named(key, volume); e != nil {
		return e
	}
	return r.named(key, volume)
}

// committed is the record without streams that go on with the next volume: if they
// have an end is not known here.
func (r *record) committed() *record {
	c := *r
	c.Streams = slices.DeleteFunc(slices.Clone(r.Streams), func(e entry) bool { return e.Continued })
	return &c
}

// find returns the newest stream for which is holds, or nil.
func (r *record) find(is func(*entry) bool) *entry {
	for i := len(r.Streams) - 1; i >= 0; i-- {
		if is(&r.Streams[i]) {
			return &r.Streams[i]
		}
	}
	return nil
}

// only returns the stream of a set that has no other, or nil.
func (r *record) only() *entry {
	if all := r.committed().Streams; len(all) == 1 {
		return &all[0]
	}
	return nil
}

// names tells what there is, for somebody who has asked for something else.
func (r *record) names() string {
	const most = 10
	all := r.committed().Streams
	if len(all) == 0 {
		return "no streams"
	}
	var names []string
	for _, e := range all[max(len(all)-most, 0):] {
		names = append(names, fmt.Sprintf("%s (volume %d, file %d)", e.Key, e.Parts[0].Volume, e.Parts[0].File))
	}
	text := strings.Join(names, ", ")
	if len(all) > most {
		text = fmt.Sprintf("%d streams, the newest of them %s", len(all), text)
	}
	return text
}
