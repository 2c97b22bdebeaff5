{{- define "sesrec.fullname" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "sesrec.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "sesrec.labels" -}}
{{ include "sesrec.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "sesrec.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default (printf "%s%s" .Chart.AppVersion (ternary "-cuda" "" .Values.gpu.enabled)) }}
{{- end }}

{{- define "sesrec.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (ternary (include "sesrec.fullname" .) "default" .Values.serviceAccount.create) }}
{{- end }}

{{/* A duration such as 5s, 1m30s or 1d in seconds, rounded up. The server reads more forms than these. */}}
{{- define "sesrec.seconds" -}}
{{- $text := toString . }}
{{- if regexMatch "^[0-9]+ *d$" $text }}{{ mul 86400 (regexFind "[0-9]+" $text | atoi) }}
{{- else if and $text (regexMatch "^([0-9]+ *h *)?([0-9]+ *m *)?([0-9]+ *s *)?([0-9]+ *ms *)?$" $text) }}
{{- $milliseconds := 0 }}
{{- range regexFindAll "[0-9]+ *(h|ms|m|s)" $text -1 }}
{{- $unit := get (dict "h" 3600000 "m" 60000 "s" 1000 "ms" 1) (regexFind "[a-z]+" .) }}
{{- $milliseconds = add $milliseconds (mul $unit (regexFind "[0-9]+" . | atoi)) }}
{{- end }}{{ div (add $milliseconds 999) 1000 }}
{{- else }}{{ fail (printf "settings: %q: write drain-notice and drain-timeout as whole numbers of h, m, s and ms (1m30s), or of d" $text) }}{{ end }}
{{- end }}

{{/* A setting's value. Go would write a whole number from a million on as 1e+06, which no flag takes. */}}
{{- define "sesrec.setting" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) }}{{ printf "%.0f" . }}{{ else }}{{ toString . }}{{ end }}
{{- end }}

{{/* Where a port listens. IPv6 addresses stand in brackets before a port. */}}
{{- define "sesrec.listen" -}}
{{- if contains ":" .address }}[{{ .address }}]{{ else }}{{ .address }}{{ end }}:{{ .port }}
{{- end }}

{{/* Where a new replica may have no place beside the old ones, an old one goes first. */}}
{{- define "sesrec.rollingUpdate" -}}
{{- if .Values.rollingUpdate }}{{ toYaml .Values.rollingUpdate }}
{{- else if or .Values.gpu.enabled (eq .Values.antiAffinity "required") }}{maxSurge: 0, maxUnavailable: 1}
{{- else }}{maxSurge: 1, maxUnavailable: 0}{{ end }}
{{- end }}

{{/* Refuses what would render and not run. */}}
{{- define "sesrec.check" -}}
{{- $tls := or .Values.tls.secretName (hasKey .Values.settings "tls-certificate") }}
{{- if and $tls (ne .Values.probes.type "http") }}
{{- fail (printf "probes.type: %s probes speak no TLS, which tls.secretName or settings.tls-certificate turns on: use http" .Values.probes.type) }}
{{- end }}
{{- if and .Values.tls.clientCaKey (not .Values.tls.secretName) }}
{{- fail "tls.clientCaKey: needs tls.secretName" }}
{{- end }}
{{- if not .Values.metrics.enabled }}
{{- if eq .Values.probes.type "http" }}
{{- fail "probes.type: http probes ask the metrics port, which metrics.enabled=false closes: use grpc or exec" }}
{{- end }}
{{- if .Values.autoscaling.enabled }}
{{- fail "autoscaling.enabled: goes by a metric of the Pods, and needs metrics.enabled=true" }}
{{- end }}
{{- if .Values.metrics.podMonitor.enabled }}
{{- fail "metrics.podMonitor: needs metrics.enabled=true" }}
{{- end }}
{{- end }}
{{- range $flag, $instead := dict "listen" "service.port and listenAddress" "metrics-listen" "metrics.port, metrics.enabled and listenAddress" }}
{{- if hasKey $.Values.settings $flag }}
{{- fail (printf "settings.%s: set %s, which ports and probes go by, too" $flag $instead) }}
{{- end }}
{{- end }}
{{- $set := dict "store" "redis.secretName" "model" "bundle" }}
{{- if .Values.gpu.enabled }}
{{- $_ := set $set "device" "gpu" }}
{{- end }}
{{- if .Values.redis.caSecretName }}
{{- $_ := set $set "redis-root-certificate" "redis.caSecretName" }}
{{- end }}
{{- if .Values.tokens.secretName }}
{{- $_ := set $set "tokens" "tokens.secretName" }}
{{- end }}
{{- if .Values.tls.secretName }}
{{- $_ := set $set "tls-certificate" "tls.secretName" }}
{{- $_ := set $set "tls-key" "tls.secretName" }}
{{- end }}
{{- if .Values.tls.clientCaKey }}
{{- $_ := set $set "tls-client-ca" "tls.clientCaKey" }}
{{- end }}
{{- range $flag, $value := $set }}
{{- if hasKey $.Values.settings $flag }}
{{- fail (printf "settings.%s: %s sets it already" $flag $value) }}
{{- end }}
{{- end }}
{{- end }}

{{/* A probe: by HTTP of a path, or by gRPC of a service, where the empty name is whether the process answers. */}}
{{- define "sesrec.probe" -}}
{{- if eq .type "http" }}
httpGet: {path: {{ .path }}, port: metrics}
{{- else if eq .type "grpc" }}
grpc: {port: {{ .port }}, service: {{ .service | quote }}}
{{- else }}
exec:
  command: [/usr/local/bin/sesrec, health, "{{ .loopback }}:{{ .port }}", --service, {{ .service | quote }}, --timeout, 2s]
{{- end }}
{{- end }}
