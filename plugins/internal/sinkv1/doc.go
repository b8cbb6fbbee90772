// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package sinkv1 is generated from plugins/proto/sink.proto by make proto.
package sinkv1
