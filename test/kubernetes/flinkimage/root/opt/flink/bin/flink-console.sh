#!/bin/bash
# flink-console.sh PROGRAM [ARGUMENT...]: becomes the JVM of one of Flink's programs. JVM_ARGS replaces the heap's size.

export FLINK_CONF_DIR=${FLINK_CONF_DIR:-$FLINK_HOME/conf} FLINK_LIB_DIR=$FLINK_HOME/lib

heap=256m
case $1 in
standalonesession) class=org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint ;;
standalonejob) class=org.apache.flink.container.entrypoint.StandaloneApplicationClusterEntryPoint ;;
kubernetes-session) class=org.apache.flink.kubernetes.entrypoint.KubernetesSessionClusterEntrypoint ;;
kubernetes-application) class=org.apache.flink.kubernetes.entrypoint.KubernetesApplicationClusterEntrypoint ;;
kubernetes-taskmanager) class=org.apache.flink.kubernetes.taskmanager.KubernetesTaskExecutorRunner ;;
taskexecutor)
  class=org.apache.flink.runtime.taskexecutor.TaskManagerRunner
  heap=160m
  ;;
*)
  echo "flink-console.sh knows no program \"$1\"" >&2
  exit 1
  ;;
esac
shift

# shellcheck disable=SC2086 # they are several words
exec java "@$FLINK_HOME/bin/jvm.options" ${JVM_ARGS:--Xmx$heap} \
  "-Dlog4j.configurationFile=file:$FLINK_CONF_DIR/log4j-console.properties" \
  -cp "$FLINK_HOME/lib/*" "$class" "$@"
