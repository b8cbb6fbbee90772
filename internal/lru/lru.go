// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package lru keeps what was used last.
package lru

import (
	"container/list"
	"sync"
)

// Cache keeps the values used last, up to a number of bytes. It is safe for
// concurrent use; nobody reads a file while holding its lock. Values are
// shared and must not be changed.
type Cache[K comparable, V any] struct {
	limitBytes int64

	mu        sync.Mutex
	usedBytes int64
	order     list.List // of item, used last in front
	items     map[K]*list.Element
}

type item[K comparable, V any] struct {
	key   K
	value V
	bytes int64
}

// New returns a cache that holds at most limitBytes, or one value.
func New[K comparable, V any](limitBytes int64) *Cache[K, V] {
	return &Cache[K, V]{limitBytes: limitBytes, items: map[K]*list.Element{}}
}

// Get returns a value, if it is there.
func (c *Cache[K, V]) Get(key K) (v V, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.items[key]
	if !ok {
		return v, false
	}
	c.order.MoveToFront(e)
	return e.Value.(*item[K, V]).value, true
}

// Put adds a value that takes the given bytes, and drops others.
func (c *Cache[K, V]) Put(key K, value V, bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.items[key]; ok { // somebody else was faster; the values are equal
		return
	}
	c.items[key] = c.order.PushFront(&item[K, V]{key: key, value: value, bytes: bytes})
	c.usedBytes += bytes
	for c.usedBytes > c.limitBytes && c.order.Len() > 1 {
		last := c.order.Back()
		old := c.order.Remove(last).(*item[K, V])
		delete(c.items, old.key)
		c.usedBytes -= old.bytes
	}
}
