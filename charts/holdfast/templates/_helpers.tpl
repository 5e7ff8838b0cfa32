{{- define "holdfast.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* The beginning of all names. The longest end, of a pod of etcd, leaves 40 characters of the 63 that a label may have. */}}
{{- define "holdfast.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "holdfast.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "holdfast.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* Labels by which pods are selected; they never change. Takes root and component. */}}
{{- define "holdfast.selector" -}}
app.kubernetes.io/name: {{ include "holdfast.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* Labels of all objects. Takes root and, where the object is of one, component. */}}
{{- define "holdfast.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 }}
app.kubernetes.io/name: {{ include "holdfast.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
app.kubernetes.io/part-of: holdfast
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Metadata of an object of this namespace. Takes root, name (what follows the full name) and component. */}}
{{- define "holdfast.metadata" -}}
name: {{ printf "%s-%s" (include "holdfast.fullname" .root) .name | quote }}
namespace: {{ .root.Release.Namespace | quote }}
labels:
  {{- include "holdfast.labels" . | nindent 2 }}
{{- end }}

{{- define "holdfast.image" -}}
{{- with .Values.image }}
{{- if .digest }}
{{- printf "%s@%s" .repository .digest }}
{{- else }}
{{- printf "%s:%s" .repository (.tag | default $.Chart.AppVersion) }}
{{- end }}
{{- end }}
{{- end }}

{{/* The name of a component's ServiceAccount. Takes root and component. */}}
{{- define "holdfast.serviceAccount" -}}
{{- $account := (index .root.Values .component).serviceAccount }}
{{- $account.name | default (printf "%s-%s" (include "holdfast.fullname" .root) .component) }}
{{- end }}

{{/* Metadata of a component's pods. No version stands in it: pods are not replaced for a change that is none of theirs. Takes root,
     component, values (of the component) and, where something decides about the pods' life that is not in their specification,
     checksum. */}}
{{- define "holdfast.podMetadata" -}}
labels:
  {{- include "holdfast.selector" . | nindent 2 }}
  app.kubernetes.io/part-of: holdfast
  {{- with .root.Values.commonLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- with .values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- if or .checksum .values.podAnnotations }}
annotations:
  {{- with .checksum }}
  holdfast.dev/checksum: {{ sha256sum . }}
  {{- end }}
  {{- with .values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Where pods run, and as whom. Takes root, component, values (of the component) and, for pods that write to a volume, group. */}}
{{- define "holdfast.pod" -}}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
# Variables for services of this namespace would look like Holdfast's own: HOLDFAST_ETCD_PORT.
enableServiceLinks: false
{{- $context := dict "runAsNonRoot" true "seccompProfile" (dict "type" "RuntimeDefault") }}
{{- with .group }}
{{- $_ := set $context "fsGroup" . }}
{{- $_ := set $context "fsGroupChangePolicy" "OnRootMismatch" }}
{{- end }}
{{- range $key, $value := .values.podSecurityContext }}
{{- if kindIs "invalid" $value }}
{{- $_ := unset $context $key }}
{{- else }}
{{- $_ := set $context $key $value }}
{{- end }}
{{- end }}
securityContext:
  {{- toYaml $context | nindent 2 }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Takes root, component and values (of the component). */}}
{{- define "holdfast.spread" -}}
{{- $selector := dict "matchLabels" (include "holdfast.selector" . | fromYaml) }}
{{- $spread := .values.topologySpreadConstraints }}
{{- if not $spread }}
{{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
{{- $spread = append $spread (dict "topologyKey" . "maxSkew" 1 "whenUnsatisfiable" "ScheduleAnyway") }}
{{- end }}
{{- end }}
{{- $all := list }}
{{- range $spread }}
{{- $all = append $all (ternary . (set (deepCopy .) "labelSelector" $selector) (hasKey . "labelSelector")) }}
{{- end }}
topologySpreadConstraints:
  {{- toYaml $all | nindent 2 }}
{{- end }}

{{/* What every container has. Takes root and values (of the component). */}}
{{- define "holdfast.container" -}}
image: {{ include "holdfast.image" .root | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  capabilities:
    drop: [ALL]
  readOnlyRootFilesystem: true
{{- with .values.resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Probes of a program that says how it is at /livez and /readyz of a port. Until it lives for the first time it may wait for an etcd
     that has no volume yet, or for the API server: as long as it takes, for a restart would only begin the waiting anew. Takes port. */}}
{{- define "holdfast.probes" -}}
startupProbe:
  httpGet:
    path: /livez
    port: {{ .port }}
  periodSeconds: 2
  timeoutSeconds: 5
  failureThreshold: 1800
livenessProbe:
  httpGet:
    path: /livez
    port: {{ .port }}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet:
    path: /readyz
    port: {{ .port }}
  periodSeconds: 2
  timeoutSeconds: 5
  failureThreshold: 3
{{- end }}

{{/* The addresses of etcd, with commas. A single member is named by its Service, which stays right when two more join. Of three each
     is named by itself: who talks to one that lost the others must be able to turn to another. */}}
{{- define "holdfast.etcdEndpoints" -}}
{{- $name := printf "%s-etcd" (include "holdfast.fullname" .) }}
{{- if eq .Values.etcd.mode "external" }}
{{- join "," .Values.etcd.endpoints }}
{{- else if eq (int .Values.etcd.replicas) 1 }}
{{- printf "https://%s.%s.svc:2379" $name .Release.Namespace }}
{{- else }}
{{- $all := list }}
{{- range $i := until (int .Values.etcd.replicas) }}
{{- $all = append $all (printf "https://%s-%d.%s-peers.%s.svc:2379" $name $i $name $.Release.Namespace) }}
{{- end }}
{{- join "," $all }}
{{- end }}
{{- end }}

{{/* The volume with the certificates that etcd's is checked by; nothing where those of public authorities do. Takes root. */}}
{{- define "holdfast.etcdCAVolume" -}}
{{- $name := include "holdfast.fullname" .root }}
{{- $etcd := .root.Values.etcd }}
{{- if eq $etcd.mode "bundled" }}
- name: etcd-ca
  configMap:
    name: {{ $name }}-etcd-ca
    optional: true
{{- else if $etcd.tls.ca }}
- name: etcd-ca
  configMap:
    name: {{ $name }}-external-etcd-ca
{{- else if $etcd.tls.caSecret }}
- name: etcd-ca
  secret:
    secretName: {{ $etcd.tls.caSecret | quote }}
    items:
      - key: {{ $etcd.tls.caKey | quote }}
        path: ca.crt
{{- end }}
{{- end }}

{{/* A PodDisruptionBudget. Takes root and component. */}}
{{- define "holdfast.podDisruptionBudget" -}}
{{- if (index .root.Values .component).podDisruptionBudget.enabled }}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "holdfast.metadata" (merge (dict "name" .component) .) | nindent 2 }}
spec:
  maxUnavailable: 1
  selector:
    matchLabels:
      {{- include "holdfast.selector" . | nindent 6 }}
{{- end }}
{{- end }}

{{/* A ServiceAccount, whose token only pods get that ask for it. Takes root and component. */}}
{{- define "holdfast.serviceAccountObject" -}}
{{- $account := (index .root.Values .component).serviceAccount }}
{{- if $account.create }}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "holdfast.serviceAccount" . | quote }}
  namespace: {{ .root.Release.Namespace | quote }}
  labels:
    {{- include "holdfast.labels" . | nindent 4 }}
  {{- with $account.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
{{- end }}
{{- end }}

{{/* Metadata of a Role or ClusterRole of a component, and of its binding. Takes root, component and, for a Role, namespace. */}}
{{- define "holdfast.roleMetadata" -}}
name: {{ printf "%s-%s" (include "holdfast.fullname" .root) .component | quote }}
{{- with .namespace }}
namespace: {{ . | quote }}
{{- end }}
labels:
  {{- include "holdfast.labels" . | nindent 2 }}
{{- end }}

{{/* The binding of that Role or ClusterRole to the component's ServiceAccount. Takes the same. */}}
{{- define "holdfast.roleBinding" -}}
{{- $cluster := ternary "" "Cluster" (hasKey . "namespace") }}
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $cluster }}RoleBinding
metadata:
  {{- include "holdfast.roleMetadata" . | nindent 2 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ $cluster }}Role
  name: {{ printf "%s-%s" (include "holdfast.fullname" .root) .component | quote }}
subjects:
  - kind: ServiceAccount
    name: {{ include "holdfast.serviceAccount" . | quote }}
    namespace: {{ .root.Release.Namespace | quote }}
{{- end }}
