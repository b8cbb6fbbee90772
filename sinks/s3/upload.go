// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package s3

import (
	"context"
	"crypto/md5" //nolint:gosec // what S3 calls an ETag
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"regexp"
	"strings"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/encrypt"

	"github.com/vmstream/vmstream/sinks"
)

const checksumHeader = "X-Amz-Checksum-Crc32c"

func encodeCRC(crc uint32) string {
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, crc))
}

// begin starts an upload. A server that does not encrypt though it was told to is
// found out here, before it has any content.
func (w *writer) begin(ctx context.Context) error {
	const op = "starting an upload of"
	s := w.sink
	o := s.attributes(w.options)
	o.UserMetadata["X-Amz-Checksum-Algorithm"] = "CRC32C"
	answer := &want{}
	err := s.try(ctx, op, w.key, func(int) error {
		id, err := s.core.NewMultipartUpload(wanting(ctx, answer), s.bucket, w.key, o)
		if err == nil && (id == "" || len(id) > maxUploadID) {
			err = wrong("an upload's id of %d bytes", len(id))
		}
		if err == nil {
			w.upload = id
		}
		return err
	})
	if err != nil {
		return s.lockRefused(err)
	}
	if s.encrypted(answer.header) != nil {
		return w.probe(ctx)
	}
	return nil
}

// probe sends a part of one byte, the last one that there can be, to a server that does
// not say of an upload that it will be encrypted: some say it of parts. It does not
// become part of the object.
func (w *writer) probe(ctx context.Context) error {
	const op = "looking at the encryption of"
	s := w.sink
	const content = "-"
	answer := &want{}
	h := http.Header{checksumHeader: {encodeCRC(crc32.Checksum([]byte(content), castagnoli))}}
	o := minio.PutObjectPartOptions{CustomHeader: h, DisableContentSha256: true, SSE: s.customerKey()}
	err := s.try(ctx, op, w.key, func(int) error {
		_, err := s.core.PutObjectPart(wanting(ctx, answer), s.bucket, w.key, w.upload, maxParts, strings.NewReader(content), int64(len(content)), o)
		return err
	})
	if err == nil {
		err = s.encrypted(answer.header)
	}
	if err != nil {
		return s.fault(ctx, op, w.key, err)
	}
	return nil
}

var errPlain = fmt.Errorf("the server would not encrypt it as asked: %w", sinks.ErrUnsupported)

// encrypted looks if an answer says that the encryption that was asked for is done.
func (s *sink) encrypted(h http.Header) error {
	if s.sse == nil {
		return nil
	}
	name, want := encrypt.SseGenericHeader, "AES256"
	switch s.sse.Type() {
	case encrypt.SSEC:
		name = encrypt.SseCustomerAlgorithm
	case encrypt.KMS:
		want = "aws:kms"
	}
	if got := h.Get(name); got != want {
		return errPlain
	}
	return nil
}

// send makes a part be on the server. One that an interrupted upload has left is
// compared and not sent.
func (w *writer) send(ctx context.Context, number int, b *buffer) (sent, error) {
	part := sent{size: b.length, crc: b.crc}
	if p, ok := w.earlier[number]; ok {
		same, err := w.same(p, b)
		if err != nil {
			return part, err
		}
		if same {
			part.etag, part.sum = p.ETag, p.ChecksumCRC32C != ""
			return part, nil
		}
	}
	op := fmt.Sprintf("sending part %d of", number)
	err := w.sink.try(ctx, op, w.key, func(int) error {
		body := b.open()
		defer body.revoke()
		h := http.Header{checksumHeader: {encodeCRC(b.crc)}}
		o := minio.PutObjectPartOptions{CustomHeader: h, DisableContentSha256: true, SSE: w.sink.customerKey()}
		p, err := w.sink.core.PutObjectPart(ctx, w.sink.bucket, w.key, w.upload, number, body, b.length, o)
		if err != nil {
			return err
		}
		part.etag, part.sum = p.ETag, p.ChecksumCRC32C != ""
		return w.sink.confirm(b, p.ETag, p.ChecksumCRC32C)
	})
	return part, err
}

var plainETag = regexp.MustCompile(`^[0-9a-f]{32}$`)

// confirm compares what a server says of content with what was sent: its CRC32C, or,
// if it does not tell, the ETag where that is an MD5.
func (s *sink) confirm(b *buffer, etag, sum string) error {
	switch {
	case etag == "" || len(etag) > 1024:
		return wrong("an ETag of %d bytes", len(etag))
	case sum != "":
		if sum != encodeCRC(b.crc) {
			return wrong("CRC32C %.50q, sent was %q", sum, encodeCRC(b.crc))
		}
	case s.sse == nil && plainETag.MatchString(etag):
		md5, err := b.md5()
		if err != nil {
			return err
		}
		if md5 != etag {
			return wrong("ETag %s, the MD5 of what was sent is %s", etag, md5)
		}
	}
	return nil
}

// md5 returns the digest that S3 uses as ETag of a part.
func (b *buffer) md5() (string, error) {
	h := md5.New() //nolint:gosec // see the import
	if _, err := io.Copy(h, b.open()); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// same reports if a part that is on the server has the content of a buffer. Without
// a checksum to compare it has not.
func (w *writer) same(p minio.ObjectPart, b *buffer) (bool, error) {
	if p.Size != b.length {
		return false, nil
	}
	if p.ChecksumCRC32C != "" {
		return p.ChecksumCRC32C == encodeCRC(b.crc), nil
	}
	if w.sink.sse != nil || !plainETag.MatchString(p.ETag) {
		return false, nil
	}
	md5, err := b.md5()
	return md5 == p.ETag, err
}

// putWhole stores an object in one request.
func (w *writer) putWhole(ctx context.Context, b *buffer) (info minio.UploadInfo, unsure bool, err error) {
	s := w.sink
	o := s.attributes(w.options)
	o.UserMetadata[checksumHeader] = encodeCRC(b.crc)
	if !w.options.Overwrite {
		o.SetMatchETagExcept("*")
	}
	err = s.try(ctx, "storing", w.key, func(int) error {
		body := b.open()
		defer body.revoke()
		var err error
		info, err = s.core.PutObject(ctx, s.bucket, w.key, body, b.length, "", "", o)
		if err == nil {
			return s.confirm(b, info.ETag, info.ChecksumCRC32C)
		}
		unsure = unsure || lost(s.fault(ctx, "storing", w.key, err))
		return err
	})
	return info, unsure, err
}

// lost reports if an error leaves open what the server has done.
func lost(err error) bool {
	var f *failure
	if !errors.As(err, &f) || errors.Is(err, errNoCredentials) {
		return false
	}
	return f.status == 0 || f.status >= 500 || f.status == http.StatusOK
}
