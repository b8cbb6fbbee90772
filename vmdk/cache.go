// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"container/list"
	"sync"
)

// cacheKey names a grain table, or a grain, of one extent.
type cacheKey struct {
	extent uint32
	index  int64
}

// cache keeps the values used last, up to a number of bytes. It is safe for
// concurrent use; nobody reads a file while holding its lock. Values are
// shared and must not be changed.
type cache[V any] struct {
	limitBytes int64

	mu        sync.Mutex
	usedBytes int64
	order     list.List // of cacheItem, used last in front
	items     map[cacheKey]*list.Element
}

type cacheItem[V any] struct {
	key   cacheKey
	value V
	bytes int64
}

func newCache[V any](limitBytes int64) *cache[V] {
	return &cache[V]{limitBytes: limitBytes, items: map[cacheKey]*list.Element{}}
}

func (c *cache[V]) get(key cacheKey) (v V, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.items[key]
	if !ok {
		return v, false
	}
	c.order.MoveToFront(e)
	return e.Value.(*cacheItem[V]).value, true
}

func (c *cache[V]) put(key cacheKey, value V, bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.items[key]; ok { // somebody else was faster; the values are equal
		return
	}
	c.items[key] = c.order.PushFront(&cacheItem[V]{key: key, value: value, bytes: bytes})
	c.usedBytes += bytes
	for c.usedBytes > c.limitBytes && c.order.Len() > 1 {
		last := c.order.Back()
		item := c.order.Remove(last).(*cacheItem[V])
		delete(c.items, item.key)
		c.usedBytes -= item.bytes
	}
}
