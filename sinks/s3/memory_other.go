// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build !linux

package s3

func allocate(n int64) ([]byte, func(), error) { return make([]byte, n), func() {}, nil }
