// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package s3

import (
	"context"
	"crypto/md5" //nolint:gosec // what S3 calls an ETag
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"net/http"
	"strings"

	"github.com/minio/minio-go/v7"

	"github.com/vmstream/vmstream/sinks"
)

// Commit sends what is left, makes the object appear, and looks at it.
func (w *writer) Commit(ctx context.Context, end sinks.End) (sinks.Info, error) {
	if w.ended {
		return sinks.Info{}, errEnded
	}
	info, err := w.commit(ctx, end)
	w.stop(errEnded)
	if err != nil {
		if cleaning := w.cleanUp(ctx); cleaning != nil {
			w.sink.log.Warn("what was sent is left on the server", "key", w.key, "error", cleaning)
		}
		return sinks.Info{}, err
	}
	return info, nil
}

func (w *writer) commit(ctx context.Context, end sinks.End) (sinks.Info, error) {
	if w.size != end.SizeBytes {
		return sinks.Info{}, fmt.Errorf("s3: %s: %d bytes written, %d announced: %w", w.key, w.size, end.SizeBytes, sinks.ErrShort)
	}
	// An upload to go on with is not used for what fits one request. Content that is
	// to be encrypted by the server goes where that is confirmed first.
	if w.number == 1 && w.ctx.Err() == nil && (w.sink.sse == nil || w.size == 0) {
		return w.commitWhole(ctx)
	}
	if w.current != nil {
		if err := w.dispatch(); err != nil {
			return sinks.Info{}, err
		}
	}
	w.sending.Wait()
	if w.ctx.Err() != nil {
		return sinks.Info{}, context.Cause(w.ctx)
	}
	return w.complete(ctx)
}

// commitWhole stores what is in the first buffer as an object.
func (w *writer) commitWhole(ctx context.Context) (sinks.Info, error) {
	b := w.current
	if b == nil {
		b = &buffer{}
	}
	info, unsure, err := w.putWhole(ctx, b)
	md5, hashing := b.md5()
	if hashing != nil {
		return sinks.Info{}, hashing
	}
	ours := expected{size: b.length, crc: encodeCRC(b.crc), etag: md5, told: info.ETag, plain: w.sink.sse == nil}
	if err != nil {
		return w.settle(ctx, ours, unsure, w.sink.lockRefused(err))
	}
	if w.upload != "" { // an earlier one was longer
		if err := w.sink.abort(ctx, w.key, w.upload); err != nil {
			w.sink.log.Warn("an upload is left on the server", "key", w.key, "error", err)
		}
	}
	return w.confirm(ctx, ours)
}

// expected is what the object must be when it is there.
type expected struct {
	size  int64
	crc   string // CRC32C as S3 tells it: of the object, or composed of those of the parts
	etag  string // what it is if ETags are made of MD5s
	told  string // the ETag that the server told when it stored the object, or empty
	plain bool   // ETags are made of MD5s
}

// expect composes what S3 tells of an object from what it told of the parts.
func (w *writer) expect() (expected, []minio.CompletePart) {
	e := expected{plain: w.sink.sse == nil}
	parts := make([]minio.CompletePart, 0, len(w.sent))
	var sums, digests []byte
	summed := true
	for n := 1; n <= len(w.sent); n++ {
		p := w.sent[n]
		e.size += p.size
		sums = binary.BigEndian.AppendUint32(sums, p.crc)
		c := minio.CompletePart{PartNumber: n, ETag: p.etag}
		if p.sum {
			c.ChecksumCRC32C = encodeCRC(p.crc)
		}
		summed = summed && p.sum
		parts = append(parts, c)
		digest, err := hex.DecodeString(p.etag)
		e.plain = e.plain && err == nil && plainETag.MatchString(p.etag)
		digests = append(digests, digest...)
	}
	whole := md5.Sum(digests) //nolint:gosec // see the import
	e.etag = fmt.Sprintf("%x-%d", whole, len(parts))
	if summed {
		e.crc = fmt.Sprintf("%s-%d", encodeCRC(crc32.Checksum(sums, castagnoli)), len(parts))
	}
	return e, parts
}

// complete makes an object of the parts.
func (w *writer) complete(ctx context.Context) (sinks.Info, error) {
	const op = "completing"
	s := w.sink
	ours, parts := w.expect()
	var o minio.PutObjectOptions
	if !w.options.Overwrite {
		o.SetMatchETagExcept("*")
	}
	unsure := false
	err := s.try(ctx, op, w.key, func(int) error {
		info, err := s.core.CompleteMultipartUpload(ctx, s.bucket, w.key, w.upload, parts, o)
		if err == nil {
			ours.told = info.ETag
			return nil
		}
		unsure = unsure || lost(s.fault(ctx, op, w.key, err))
		return err
	})
	if err == nil {
		return w.confirm(ctx, ours)
	}
	return w.settle(ctx, ours, unsure, err)
}

// settle finds out what has come of a request that failed. unsure says that one of
// its tries may have been done: the server then refuses the next one because the
// upload is gone, or because the object is there.
func (w *writer) settle(ctx context.Context, ours expected, unsure bool, err error) (sinks.Info, error) {
	if !unsure {
		if errors.Is(err, errCondition) {
			err = fmt.Errorf("%w: %w", err, sinks.ErrExists)
		}
		return sinks.Info{}, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	o, looking := w.sink.head(ctx, w.key)
	switch {
	case looking == nil && ours.is(o):
		return w.confirm(ctx, ours)
	case looking == nil && !w.options.Overwrite && errors.Is(err, errCondition):
		return sinks.Info{}, fmt.Errorf("%w: %w", err, sinks.ErrExists)
	case errors.Is(looking, sinks.ErrNotExist) && isCode(err, "NoSuchUpload"):
		return sinks.Info{}, err // somebody has removed it
	case looking != nil && !errors.Is(looking, sinks.ErrNotExist):
		return sinks.Info{}, fmt.Errorf("%w; %w: %w", err, looking, sinks.ErrUnknown)
	}
	return sinks.Info{}, fmt.Errorf("%w: %w", err, sinks.ErrUnknown)
}

// is reports if an object is what was sent. Without a checksum it is not known to be.
func (e expected) is(o minio.ObjectInfo) bool {
	if o.Size != e.size {
		return false
	}
	if e.comparable(o) {
		return o.ChecksumCRC32C == e.crc
	}
	return o.ETag == e.etag || e.told != "" && o.ETag == e.told
}

// comparable reports if the checksum that the server tells is of the same kind: of
// the content, or composed of those of the parts.
func (e expected) comparable(o minio.ObjectInfo) bool {
	return e.crc != "" && o.ChecksumCRC32C != "" && strings.Contains(e.crc, "-") == strings.Contains(o.ChecksumCRC32C, "-")
}

// confirm looks at the object that the server says it has stored.
func (w *writer) confirm(ctx context.Context, ours expected) (sinks.Info, error) {
	o, err := w.sink.head(ctx, w.key)
	var f *failure
	switch {
	case errors.As(err, &f) && f.status == http.StatusForbidden && errors.Is(err, fs.ErrPermission):
		// who may only write has to believe what was told
		w.sink.log.Warn("may not look at what was stored", "key", w.key)
		return sinks.Info{Key: w.key, SizeBytes: ours.size, Version: ours.told}, nil
	case err != nil:
		return sinks.Info{}, fmt.Errorf("said to be stored, but %w: %w", err, sinks.ErrUnknown)
	}
	if why := ours.differs(o); why != nil {
		return sinks.Info{}, fmt.Errorf("%w: %w", w.sink.fault(ctx, "looking at", w.key, why), sinks.ErrUnknown)
	}
	if err := w.sink.encrypted(o.Headers); err != nil { // as in one that was begun without, and gone on with
		return sinks.Info{}, fmt.Errorf("stored, but %w: %w", w.sink.fault(ctx, "looking at", w.key, err), sinks.ErrUnknown)
	}
	if err := w.sink.confirmLock(ctx, w.key, o); err != nil {
		return sinks.Info{}, err
	}
	return infoOf(w.key, o), nil
}

// differs says what of an object is not as it was sent.
func (e expected) differs(o minio.ObjectInfo) error {
	switch {
	case o.Size != e.size:
		return wrong("it has stored %d bytes, sent were %d", o.Size, e.size)
	case e.told != "" && o.ETag != e.told:
		return wrong("ETag %.100q, told was %.100q", o.ETag, e.told)
	case e.comparable(o):
		if o.ChecksumCRC32C != e.crc {
			return wrong("CRC32C %.100q, sent was %q", o.ChecksumCRC32C, e.crc)
		}
	case e.plain && len(o.ETag) == len(e.etag) && o.ETag != e.etag:
		return wrong("ETag %.100q, that of what was sent is %q", o.ETag, e.etag)
	}
	return nil
}
