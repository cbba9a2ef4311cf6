{{- define "larder.name" -}}
{{- if contains "larder" .Release.Name }}{{ .Release.Name | trunc 52 | trimSuffix "-" }}{{ else }}{{ printf "%s-larder" .Release.Name | trunc 52 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "larder.selector" -}}
app.kubernetes.io/name: larder
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "larder.labels" -}}
{{ include "larder.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* What cannot work is refused here, with the way out. */}}
{{- define "larder.check" -}}
{{- if and (not .Values.bucket.name) (or (gt (int .Values.replicas) 1) .Values.autoscaling.enabled) }}
{{- fail "a volume belongs to one server: set bucket.name for several replicas" }}
{{- end }}
{{- if and .Values.config .Values.existingConfigSecret }}
{{- fail "set config or existingConfigSecret, not both" }}
{{- end }}
{{- if and .Values.tls.clientCASecret (not .Values.tls.existingSecret) }}
{{- fail "tls.clientCASecret needs tls.existingSecret" }}
{{- end }}
{{- with ((.Values.resources).limits).memory }}
{{- $limit := include "larder.mebibytes" (toString .) | int64 }}
{{- $needed := add (include "larder.mebibytes" $.Values.hotSize | int64) 256 }}
{{- if gt $needed $limit }}
{{- fail (printf "a server takes hotSize and about 256 MiB more: with hotSize %s, resources.limits.memory must be at least %dMi, and is %s" $.Values.hotSize $needed (toString .)) }}
{{- end }}
{{- end }}
{{- end }}

{{/* An amount of memory, as Larder or Kubernetes writes it, in MiB. Units of 1000 are taken for those of 1024: close enough here. */}}
{{- define "larder.mebibytes" -}}
{{- $number := regexFind "^[0-9]+" . | int64 }}
{{- $unit := regexFind "[KkMGT]" . }}
{{- if eq $unit "T" }}{{ mul $number 1048576 }}{{ else if eq $unit "G" }}{{ mul $number 1024 }}{{ else if eq $unit "M" }}{{ $number }}{{ else if $unit }}{{ div $number 1024 }}{{ else }}{{ div $number 1048576 }}{{ end }}
{{- end }}

{{- define "larder.configSecret" -}}
{{- if .Values.existingConfigSecret }}{{ .Values.existingConfigSecret }}{{ else if .Values.config }}{{ include "larder.name" . }}{{ end }}
{{- end }}

{{/* The server does not see that TLS ends at the ingress: without this, it would send clients to http:// for tokens. */}}
{{- define "larder.publicUrl" -}}
{{- if .Values.publicUrl }}{{ .Values.publicUrl }}{{ else if and .Values.ingress.enabled .Values.ingress.tlsSecret }}https://{{ .Values.ingress.host }}{{ end }}
{{- end }}

{{- define "larder.scheme" -}}
{{ ternary "HTTPS" "HTTP" (ne .Values.tls.existingSecret "") }}
{{- end }}

{{/* With certificates demanded of clients, those who only ask how it is have an address without TLS. */}}
{{- define "larder.statusPort" -}}
{{ ternary "status" "registry" (and (ne .Values.tls.clientCASecret "") (eq .Values.tls.clientAuth "required")) }}
{{- end }}
{{- define "larder.statusScheme" -}}
{{ ternary "HTTP" (include "larder.scheme" .) (eq (include "larder.statusPort" .) "status") }}
{{- end }}

{{/* While a bucket is away, all of its replicas would say so at once, and a service without endpoints serves nobody: they wait
     for it, and serve what is hot. One that cannot open its bucket at the start ends, and never becomes ready. A replica that
     is deleted leaves the endpoints whatever it answers. */}}
{{- define "larder.readyPath" -}}
{{ ternary "/healthz" "/readyz" (ne .Values.bucket.name "") }}
{{- end }}

{{- define "larder.pod" -}}
{{- include "larder.check" . }}
metadata:
  labels:
    {{- include "larder.selector" . | nindent 4 }}
    {{- with .Values.podLabels }}{{ toYaml . | nindent 4 }}{{ end }}
  annotations:
    larder/config: {{ .Values.config | sha256sum | trunc 16 | quote }}
    {{- with .Values.podAnnotations }}{{ toYaml . | nindent 4 }}{{ end }}
spec:
  serviceAccountName: {{ include "larder.name" . }}
  automountServiceAccountToken: false
  # A service called larder would be taken for configuration.
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets: {{ toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile: {type: RuntimeDefault}
  containers:
    - name: larder
      image: "{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}"
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [serve]
      ports:
        - {name: registry, containerPort: 5000}
        {{- if eq (include "larder.statusPort" .) "status" }}
        - {name: status, containerPort: 5001}
        {{- end }}
      env:
        - {name: LARDER_SERVER_LISTEN, value: '["0.0.0.0:5000"]'}
        {{- if eq (include "larder.statusPort" .) "status" }}
        - {name: LARDER_SERVER_LISTEN_PLAIN, value: '["0.0.0.0:5001"]'}
        {{- end }}
        {{- with include "larder.publicUrl" . }}
        - {name: LARDER_SERVER_PUBLIC_URL, value: {{ . | quote }}}
        {{- end }}
        - {name: LARDER_LOG_FORMAT, value: json}
        - {name: LARDER_HOT_SIZE, value: {{ .Values.hotSize | quote }}}
        {{- if include "larder.configSecret" . }}
        - {name: LARDER_CONFIG, value: /etc/larder/config/larder.toml}
        {{- end }}
        {{- if .Values.tls.existingSecret }}
        - {name: LARDER_TLS_CERT, value: /etc/larder/tls/tls.crt}
        - {name: LARDER_TLS_KEY, value: /etc/larder/tls/tls.key}
        {{- end }}
        {{- if .Values.tls.clientCASecret }}
        - {name: LARDER_TLS_CLIENT_CA, value: /etc/larder/clients/ca.crt}
        - {name: LARDER_TLS_CLIENT_AUTH, value: {{ .Values.tls.clientAuth }}}
        {{- end }}
        {{- with .Values.bucket }}
        {{- if .name }}
        - {name: LARDER_STORE_S3_BUCKET, value: {{ .name | quote }}}
        {{- with .prefix }}
        - {name: LARDER_STORE_S3_PREFIX, value: {{ . | quote }}}
        {{- end }}
        {{- with .region }}
        - {name: LARDER_STORE_S3_REGION, value: {{ . | quote }}}
        {{- end }}
        {{- with .endpoint }}
        - {name: LARDER_STORE_S3_ENDPOINT, value: {{ . | quote }}}
        {{- end }}
        {{- if .existingSecret }}
        - {name: LARDER_STORE_S3_ACCESS_KEY_ID_FILE, value: /etc/larder/bucket/access_key_id}
        - {name: LARDER_STORE_S3_SECRET_ACCESS_KEY_FILE, value: /etc/larder/bucket/secret_access_key}
        {{- end }}
        {{- end }}
        {{- end }}
        {{- with .Values.extraEnv }}{{ toYaml . | nindent 8 }}{{ end }}
      startupProbe:
        httpGet: {path: /healthz, port: {{ include "larder.statusPort" . }}, scheme: {{ include "larder.statusScheme" . }}}
        periodSeconds: 2
        failureThreshold: 60
      livenessProbe:
        httpGet: {path: /healthz, port: {{ include "larder.statusPort" . }}, scheme: {{ include "larder.statusScheme" . }}}
        periodSeconds: 20
        timeoutSeconds: 5
      readinessProbe:
        httpGet: {path: {{ include "larder.readyPath" . }}, port: {{ include "larder.statusPort" . }}, scheme: {{ include "larder.statusScheme" . }}}
        periodSeconds: 5
        timeoutSeconds: 5
      {{- if semverCompare ">=1.30-0" .Capabilities.KubeVersion.Version }}
      lifecycle:
        # Until every proxy knows that this one goes.
        preStop: {sleep: {seconds: 5}}
      {{- end }}
      resources: {{ toYaml .Values.resources | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
      volumeMounts:
        {{- if not .Values.bucket.name }}
        - {name: store, mountPath: /var/lib/larder-data}
        {{- else if .Values.bucket.existingSecret }}
        - {name: bucket, mountPath: /etc/larder/bucket, readOnly: true}
        {{- end }}
        {{- if include "larder.configSecret" . }}
        - {name: config, mountPath: /etc/larder/config, readOnly: true}
        {{- end }}
        {{- if .Values.tls.existingSecret }}
        - {name: tls, mountPath: /etc/larder/tls, readOnly: true}
        {{- end }}
        {{- if .Values.tls.clientCASecret }}
        - {name: clients, mountPath: /etc/larder/clients, readOnly: true}
        {{- end }}
  volumes:
    {{- if and .Values.bucket.name .Values.bucket.existingSecret }}
    - {name: bucket, secret: {secretName: {{ .Values.bucket.existingSecret }}, defaultMode: 0440}}
    {{- end }}
    {{- if include "larder.configSecret" . }}
    - {name: config, secret: {secretName: {{ include "larder.configSecret" . }}, defaultMode: 0440}}
    {{- end }}
    {{- if .Values.tls.existingSecret }}
    - {name: tls, secret: {secretName: {{ .Values.tls.existingSecret }}, defaultMode: 0440}}
    {{- end }}
    {{- if .Values.tls.clientCASecret }}
    - {name: clients, secret: {secretName: {{ .Values.tls.clientCASecret }}, defaultMode: 0440}}
    {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector: {{ toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations: {{ toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity: {{ toYaml . | nindent 4 }}
  {{- end }}
  topologySpreadConstraints:
    {{- with .Values.topologySpreadConstraints }}
    {{- toYaml . | nindent 4 }}
    {{- else }}
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels: {{ include "larder.selector" . | nindent 10 }}
    {{- end }}
{{- end }}
