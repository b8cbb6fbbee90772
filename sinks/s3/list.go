// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package s3

import (
	"context"
	"fmt"
	"iter"
	"strings"

	"github.com/minio/minio-go/v7"

	"github.com/vmstream/vmstream/sinks"
)

const (
	pageEntries = 1000      // that are asked for; a server may send less
	maxUploads  = 1_000_000 // in a bucket
	maxUploadID = 4096      // bytes
)

// List tells of objects page by page. S3 has them in the order of their keys; a
// server that goes back or stands still would go on for ever.
func (s *sink) List(ctx context.Context, prefix string) iter.Seq2[sinks.Info, error] {
	const op = "listing"
	return func(yield func(sinks.Info, error) bool) {
		last, stopped := "", false
		err := s.try(ctx, op, prefix, func(int) error {
			listing, cancel := context.WithCancel(ctx)
			defer cancel()
			o := minio.ListObjectsOptions{Prefix: prefix, Recursive: true, StartAfter: last, MaxKeys: pageEntries}
			for e := range s.core.ListObjectsIter(listing, s.bucket, o) {
				if e.Err != nil {
					return e.Err
				}
				if e.Key <= last || !strings.HasPrefix(e.Key, prefix) || e.Size < 0 {
					return wrong("%.200q of %d bytes does not belong behind %.200q", e.Key, e.Size, last)
				}
				last = e.Key
				if stopped = !yield(infoOf(e.Key, e), nil); stopped {
					return nil
				}
			}
			return ctx.Err()
		})
		if err != nil && !stopped {
			yield(sinks.Info{}, err)
		}
	}
}

// uploads hands over the uploads of a bucket that are not complete, of keys with a
// prefix, until take says no. Some servers know as prefixes only whole keys.
func (s *sink) uploads(ctx context.Context, prefix string, take func(minio.ObjectMultipartInfo) bool) error {
	const op = "listing uploads of"
	key, id := "", ""
	for n := 0; n < maxUploads; {
		var page minio.ListMultipartUploadsResult
		err := s.try(ctx, op, prefix, func(int) error {
			var err error
			page, err = s.core.ListMultipartUploads(ctx, s.bucket, prefix, key, id, "", pageEntries)
			return err
		})
		if err != nil {
			return err
		}
		for _, u := range page.Uploads {
			if u.UploadID == "" || len(u.UploadID) > maxUploadID || len(u.Key) > maxKey {
				return s.fault(ctx, op, prefix, wrong("an upload's id of %d bytes, a key of %d", len(u.UploadID), len(u.Key)))
			}
			if !take(u) {
				return nil
			}
		}
		n += len(page.Uploads)
		if !page.IsTruncated {
			return nil
		}
		if page.NextKeyMarker < key || page.NextKeyMarker == key && page.NextUploadIDMarker == id {
			return s.fault(ctx, op, prefix, wrong("the next page begins at %.200q, where this one did", page.NextKeyMarker))
		}
		key, id = page.NextKeyMarker, page.NextUploadIDMarker
	}
	return s.fault(ctx, op, prefix, wrong("more than %d uploads", maxUploads))
}

// parts returns the parts of an upload that are there, in the order of their numbers.
func (s *sink) parts(ctx context.Context, key, id string) ([]minio.ObjectPart, error) {
	const op = "listing parts of"
	var all []minio.ObjectPart
	last := 0
	for {
		var page minio.ListObjectPartsResult
		err := s.try(ctx, op, key, func(int) error {
			var err error
			page, err = s.core.ListObjectParts(ctx, s.bucket, key, id, last, pageEntries)
			return err
		})
		if err != nil {
			return nil, err
		}
		begin := last
		for _, p := range page.ObjectParts {
			if p.PartNumber <= last || p.PartNumber > maxParts || p.Size < 0 || p.Size > maxPartBytes {
				return nil, s.fault(ctx, op, key, wrong("part %d of %d bytes behind part %d", p.PartNumber, p.Size, last))
			}
			last = p.PartNumber
			p.ETag = strings.Trim(p.ETag, `"`)
			all = append(all, p)
		}
		if !page.IsTruncated {
			return all, nil
		}
		if last == begin {
			return nil, s.fault(ctx, op, key, wrong("more parts are said to follow part %d, and do not", last))
		}
	}
}

// Orphans lists the whole bucket, because some servers find nothing by a prefix.
func (s *sink) Orphans(ctx context.Context, prefix string) iter.Seq2[sinks.Orphan, error] {
	return func(yield func(sinks.Orphan, error) bool) {
		stopped := false
		err := s.uploads(ctx, "", func(u minio.ObjectMultipartInfo) bool {
			if !strings.HasPrefix(u.Key, prefix) {
				return true
			}
			o := sinks.Orphan{Key: u.Key, ID: u.UploadID, Begun: u.Initiated}
			parts, err := s.parts(ctx, u.Key, u.UploadID)
			if err != nil {
				o.SizeBytes = -1 // it may have ended meanwhile
			}
			for _, p := range parts {
				o.SizeBytes += p.Size
			}
			stopped = !yield(o, nil)
			return !stopped
		})
		if err != nil && !stopped {
			yield(sinks.Orphan{}, err)
		}
	}
}

func (s *sink) RemoveOrphan(ctx context.Context, o sinks.Orphan) error {
	if o.Key == "" || o.ID == "" {
		return fmt.Errorf("s3: an orphan without key or id: %w", sinks.ErrTarget)
	}
	return s.abort(ctx, o.Key, o.ID)
}

// abort ends an upload and removes its parts. One that is not there gives
// ErrNotExist.
func (s *sink) abort(ctx context.Context, key, id string) error {
	err := s.try(ctx, "aborting the upload of", key, func(int) error {
		return s.core.AbortMultipartUpload(ctx, s.bucket, key, id)
	})
	if isCode(err, "NoSuchUpload") {
		return fmt.Errorf("%w: %w", err, sinks.ErrNotExist)
	}
	return err
}
