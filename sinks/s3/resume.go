// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package s3

import (
	"context"
	"slices"

	"github.com/minio/minio-go/v7"
)

// maxLooked bounds how many uploads of one key are looked at.
const maxLooked = 100

// find looks for the newest upload of the key whose parts were made by the plan, or for
// one that has none yet. The server's list of parts is what counts; there is no other
// record.
func (w *writer) find(ctx context.Context) error {
	var found []minio.ObjectMultipartInfo
	// A whole key is a prefix that all servers know.
	err := w.sink.uploads(ctx, w.key, func(u minio.ObjectMultipartInfo) bool {
		if u.Key == w.key {
			found = append(found, u)
		}
		return len(found) < maxUploads
	})
	if err != nil {
		return err
	}
	slices.SortStableFunc(found, func(a, b minio.ObjectMultipartInfo) int { return b.Initiated.Compare(a.Initiated) })
	empty := ""
	for _, u := range found[:min(len(found), maxLooked)] {
		parts, err := w.sink.parts(ctx, w.key, u.UploadID)
		if isCode(err, "NoSuchUpload", "NoSuchKey") {
			continue // it has ended meanwhile
		}
		if err != nil {
			return err
		}
		if len(parts) == 0 && empty == "" {
			empty = u.UploadID
		}
		p, ok := w.plan.match(parts, w.plan.equal && !w.sink.sizeGiven)
		if !ok || len(parts) == 0 {
			continue
		}
		w.take(u.UploadID, p, parts)
		return nil
	}
	if empty != "" {
		w.take(empty, w.plan, nil)
		return nil
	}
	w.sink.log.Info("no upload to go on with", "key", w.key, "uploads", len(found))
	return nil
}

func (w *writer) take(id string, p plan, parts []minio.ObjectPart) {
	w.upload, w.plan = id, p
	w.earlier = make(map[int]minio.ObjectPart, len(parts))
	var size int64
	for _, p := range parts {
		w.earlier[p.PartNumber] = p
		size += p.Size
	}
	w.sink.log.Info("goes on with an upload", "key", w.key, "parts", len(parts), "bytes", size)
}

// match returns the plan that parts were made by: p, or where the length of the
// first part is free, p with another one. The last part may be shorter.
func (p plan) match(parts []minio.ObjectPart, free bool) (plan, bool) {
	if free && len(parts) > 1 {
		p.first = parts[0].Size
	}
	for i, part := range parts {
		want := p.size(part.PartNumber)
		if part.Size != want && (i < len(parts)-1 || part.Size > want) {
			return p, false
		}
	}
	return p, true
}
