#!/bin/bash
# kubernetes-jobmanager.sh kubernetes-session|kubernetes-application [ARGUMENT...]: the JobManager of native Kubernetes. It gets no
# --configDir: with one, Flink would pass over every -D behind it without a word.
exec flink-console.sh "$@"
