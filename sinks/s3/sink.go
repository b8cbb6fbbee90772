// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package s3

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/encrypt"

	"github.com/vmstream/vmstream/sinks"
)

// sink is a bucket.
type sink struct {
	config
	bucket    string
	core      minio.Core
	creds     *credentials.Credentials
	source    *chain
	transport *transport
	backoff   sinks.Backoff
	log       *slog.Logger
}

func (s *sink) Capabilities() sinks.Capabilities {
	c := capabilities
	c.MaxObjectBytes = s.plan.total()
	return c
}

func (s *sink) Close() error {
	s.transport.CloseIdleConnections()
	return nil
}

const maxKey = 1024 // bytes, S3's own limit

// checkKey refuses keys that S3 does not have or that a client would change.
func checkKey(key string) error {
	switch {
	case key == "" || strings.HasSuffix(key, "/"):
		return fmt.Errorf("s3: key %q names no object: %w", key, sinks.ErrTarget)
	case len(key) > maxKey || !utf8.ValidString(key) || strings.ContainsRune(key, 0):
		return fmt.Errorf("s3: a key of %d bytes: up to %d of UTF-8 are possible: %w", len(key), maxKey, sinks.ErrTarget)
	}
	for _, part := range strings.Split(key, "/") {
		if part == "" || part == "." || part == ".." {
			return fmt.Errorf("s3: key %q: an empty part, . or .. would mean something else to some servers: %w", key, sinks.ErrTarget)
		}
	}
	return nil
}

// head asks for an object's properties. The answer to HEAD has no body that would tell
// expired credentials from missing rights: they are fetched again once.
func (s *sink) head(ctx context.Context, key string) (minio.ObjectInfo, error) {
	info, err := s.headOnce(ctx, key)
	if errors.Is(err, fs.ErrPermission) {
		s.creds.Expire()
		info, err = s.headOnce(ctx, key)
	}
	return info, err
}

func (s *sink) headOnce(ctx context.Context, key string) (minio.ObjectInfo, error) {
	var info minio.ObjectInfo
	err := s.try(ctx, "looking at", key, func(int) error {
		o := minio.StatObjectOptions{ServerSideEncryption: s.customerKey(), Checksum: true}
		var err error
		info, err = s.core.StatObject(ctx, s.bucket, key, o)
		if err == nil && (info.Size < 0 || info.ETag == "") {
			err = wrong("no length or no ETag")
		}
		return err
	})
	return info, err
}

// customerKey returns the key that requests for an object need to have.
func (s *sink) customerKey() encrypt.ServerSide {
	if s.sse != nil && s.sse.Type() == encrypt.SSEC {
		return s.sse
	}
	return nil
}

func infoOf(key string, o minio.ObjectInfo) sinks.Info {
	return sinks.Info{Key: key, SizeBytes: o.Size, Modified: o.LastModified, Version: o.ETag}
}

func (s *sink) Stat(ctx context.Context, key string) (sinks.Info, error) {
	if err := checkKey(key); err != nil {
		return sinks.Info{}, err
	}
	o, err := s.head(ctx, key)
	if err != nil {
		return sinks.Info{}, err
	}
	return infoOf(key, o), nil
}

// Delete removes an object. Where the bucket keeps versions, S3 hides the newest one;
// a locked one is not hidden but refused, as it would be there for as long.
func (s *sink) Delete(ctx context.Context, key string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	o, err := s.head(ctx, key)
	if err != nil {
		return err
	}
	if why := lockOf(o, time.Now()); why != "" {
		return &failure{op: "removing", place: s.place(key), text: why, kinds: []error{fs.ErrPermission}}
	}
	return s.try(ctx, "removing", key, func(int) error {
		return s.core.RemoveObject(ctx, s.bucket, key, minio.RemoveObjectOptions{})
	})
}

// lockOf says why an object cannot be removed, or nothing.
func lockOf(o minio.ObjectInfo, now time.Time) string {
	if o.Headers.Get("X-Amz-Object-Lock-Legal-Hold") == "ON" {
		return "a legal hold is on it"
	}
	until, err := time.Parse(time.RFC3339, o.Headers.Get("X-Amz-Object-Lock-Retain-Until-Date"))
	if err != nil || !until.After(now) {
		return ""
	}
	return fmt.Sprintf("it is locked until %s", until.UTC().Format(time.RFC3339))
}

// lockable looks before anything is sent if a bucket takes locks, because some servers
// store objects without one then. Who may not see that learns it at the end.
func (s *sink) lockable(ctx context.Context) error {
	if s.mode == "" && !s.hold {
		return nil
	}
	err := s.try(ctx, "looking at the locks of", "", func(int) error {
		enabled, _, _, _, err := s.core.GetObjectLockConfig(ctx, s.bucket)
		if err == nil && enabled != "Enabled" {
			err = wrong("object lock is %.50q", enabled)
		}
		return err
	})
	if err == nil || errors.Is(err, fs.ErrPermission) {
		return nil
	}
	if isCode(err, "ObjectLockConfigurationNotFoundError") || errors.Is(err, errAnswer) {
		return fmt.Errorf("%w: the bucket has no object lock: %w", err, sinks.ErrUnsupported)
	}
	return err
}

// confirmLock looks if an object that was to be locked is. Who may write objects may
// not be allowed to see that, which is no error.
func (s *sink) confirmLock(ctx context.Context, key string, o minio.ObjectInfo) error {
	if s.mode == "" && !s.hold {
		return nil
	}
	now := time.Now()
	if s.hold && o.Headers.Get("X-Amz-Object-Lock-Legal-Hold") == "ON" || !s.hold && lockOf(o, now) != "" {
		return nil
	}
	err := s.try(ctx, "looking at the lock of", key, func(int) error {
		if s.hold {
			status, err := s.core.GetObjectLegalHold(ctx, s.bucket, key, minio.GetObjectLegalHoldOptions{})
			if err == nil && (status == nil || *status != minio.LegalHoldEnabled) {
				err = wrong("there is no legal hold")
			}
			return err
		}
		_, until, err := s.core.GetObjectRetention(ctx, s.bucket, key, "")
		if err == nil && (until == nil || !until.After(now)) {
			err = wrong("there is no lock")
		}
		return err
	})
	if errors.Is(err, fs.ErrPermission) {
		s.log.Warn("cannot see if the object is locked", "key", key)
		return nil
	}
	if err != nil {
		return fmt.Errorf("stored, but not locked as asked: %w: %w: %w", err, sinks.ErrUnsupported, sinks.ErrUnknown)
	}
	return nil
}

// attributes returns what an object is to have besides its content.
func (s *sink) attributes(o sinks.CreateOptions) minio.PutObjectOptions {
	p := minio.PutObjectOptions{
		ContentType: "application/octet-stream", StorageClass: s.storageClass, ServerSideEncryption: s.sse,
		Mode: s.mode, DisableContentSha256: true, UserMetadata: map[string]string{},
	}
	if s.mode != "" {
		p.RetainUntilDate = s.retainUntil()
	}
	if s.hold {
		p.LegalHold = minio.LegalHoldEnabled
	}
	if o.ID != "" {
		p.UserMetadata["vmstream-id"] = o.ID
	}
	return p
}

// lockRefused adds to an error what it may be about.
func (s *sink) lockRefused(err error) error {
	var f *failure
	if (s.mode != "" || s.hold) && errors.As(err, &f) && f.status == http.StatusBadRequest {
		return fmt.Errorf("%w (does the bucket have object lock?): %w", err, sinks.ErrUnsupported)
	}
	return err
}
