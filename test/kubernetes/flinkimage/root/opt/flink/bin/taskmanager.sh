#!/bin/bash
# taskmanager.sh start-foreground [ARGUMENT...]: a TaskManager. Flink's own script works its memory out; here it is always as small.
shift
exec flink-console.sh taskexecutor --configDir "${FLINK_CONF_DIR:-$FLINK_HOME/conf}" \
  -D taskmanager.cpu.cores=1 \
  -D taskmanager.memory.framework.heap.size=64m -D taskmanager.memory.framework.off-heap.size=32m \
  -D taskmanager.memory.task.heap.size=64m -D taskmanager.memory.task.off-heap.size=0m \
  -D taskmanager.memory.network.min=16m -D taskmanager.memory.network.max=16m -D taskmanager.memory.managed.size=8m \
  -D taskmanager.memory.jvm-metaspace.size=96m \
  -D taskmanager.memory.jvm-overhead.min=32m -D taskmanager.memory.jvm-overhead.max=32m "$@"
