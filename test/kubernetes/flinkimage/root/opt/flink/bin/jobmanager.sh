#!/bin/bash
# jobmanager.sh start-foreground [ARGUMENT...]: the JobManager of a session cluster.
shift
exec flink-console.sh standalonesession --configDir "${FLINK_CONF_DIR:-$FLINK_HOME/conf}" --executionMode cluster "$@"
