// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package plugins

import (
	"context"
	"errors"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// The other side of a call has its deadline, too, and may end the call first.
func TestBrokenByDeadline(t *testing.T) {
	p := &process{name: "x", child: &child{done: make(chan struct{})}}
	ctx, cancel := context.WithTimeout(t.Context(), drainTime/4)
	defer cancel()
	ended := status.Error(codes.Canceled, "stream terminated by RST_STREAM with error code: CANCEL")
	if err := p.broken(ctx, "read", ended); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	later, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	if err := p.broken(later, "read", ended); !errors.Is(err, errNoAnswer) {
		t.Error(err)
	}
}
