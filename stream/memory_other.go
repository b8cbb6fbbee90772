// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build !linux

package stream

func allocate(n int) ([]byte, func(), error) { return make([]byte, n), func() {}, nil }
