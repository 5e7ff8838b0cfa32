#!/bin/bash
# standalone-job.sh start-foreground [ARGUMENT...]: the JobManager of an application cluster.
shift
exec flink-console.sh standalonejob --configDir "${FLINK_CONF_DIR:-$FLINK_HOME/conf}" "$@"
