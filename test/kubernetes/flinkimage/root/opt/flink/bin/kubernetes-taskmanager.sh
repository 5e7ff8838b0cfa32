#!/bin/bash
# kubernetes-taskmanager.sh [ARGUMENT...]: a TaskManager of native Kubernetes. The JobManager has worked its memory out.
export JVM_ARGS="$JVM_ARGS $FLINK_TM_JVM_MEM_OPTS"
exec flink-console.sh kubernetes-taskmanager --configDir "${FLINK_CONF_DIR:-$FLINK_HOME/conf}" "$@"
