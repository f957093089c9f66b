{{- /* The pool's name; pods are NAME-0, NAME-1, … and NAME-control-0. A StatefulSet's name may have 52 characters. */ -}}
{{- define "memkv.name" -}}
{{- if contains "memkv" .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-memkv" (.Release.Name | trunc 34 | trimSuffix "-") -}}
{{- end -}}
{{- end -}}

{{- /* What selects the pods of a component: (list $ "node"). It never changes. */ -}}
{{- define "memkv.selector" -}}
app.kubernetes.io/name: memkv
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "memkv.labels" -}}
{{ include "memkv.selector" . }}
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
helm.sh/chart: {{ printf "%s-%s" (index . 0).Chart.Name (index . 0).Chart.Version | replace "+" "_" }}
{{- end -}}

{{- /* An image: (list $ .Values.node.image). A tag may be TAG, TAG@DIGEST or @DIGEST. */ -}}
{{- define "memkv.image" -}}
{{- $image := index . 1 -}}
{{- $tag := $image.tag | default (index . 0).Chart.AppVersion -}}
image: {{ printf "%s%s%s" $image.repository (hasPrefix "@" $tag | ternary "" ":") $tag | quote }}
imagePullPolicy: {{ $image.pullPolicy }}
{{- end -}}

{{- /* What pods of both components have alike: (list $ .Values.node). */ -}}
{{- define "memkv.placing" -}}
{{- $ := index . 0 -}}
{{- $of := index . 1 -}}
{{- with $.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $of.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $of.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $of.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{- /* Where agents and commands find the control plane. One process: the Service, whose address stays.
       Several: each by its own name, so that a leader that stands still is left for another one. */ -}}
{{- define "memkv.controlAddresses" -}}
{{- $name := printf "%s-control" (include "memkv.name" .) -}}
{{- if eq (int .Values.control.replicas) 1 -}}
{{- printf "%s.%s.svc:9910" $name .Release.Namespace -}}
{{- else -}}
{{- $addresses := list -}}
{{- range $i := until (int .Values.control.replicas) -}}
{{- $addresses = append $addresses (printf "%s-%d.%s-pods.%s.svc:9910" $name $i $name $.Release.Namespace) -}}
{{- end -}}
{{- join "," $addresses -}}
{{- end -}}
{{- end -}}

{{- /* What clients may name the node by beside the address that it advertises. */ -}}
{{- define "memkv.otherNames" -}}
{{- $name := include "memkv.name" . -}}
{{- $own := list (printf "$(POD_NAME).%s:9900" $name) (printf "$(POD_NAME).%s.%s:9900" $name .Release.Namespace) -}}
{{- concat $own .Values.node.alsoKnownAs | join "," -}}
{{- end -}}

{{- /* Pods' annotations: where their page for Prometheus is, and, stronger, what the values say:
       (list $ .Values.node.podAnnotations 9901). */ -}}
{{- define "memkv.annotations" -}}
{{- $page := dict -}}
{{- if (index . 0).Values.metrics.enabled -}}
{{- $page = dict "prometheus.io/scrape" "true" "prometheus.io/port" (toString (index . 2)) "prometheus.io/path" "/metrics" -}}
{{- end -}}
{{- with merge (dict) (index . 1) $page -}}
{{- toYaml . -}}
{{- end -}}
{{- end -}}

{{- /* The rule that lets Prometheus in, and nobody where no one is named. */ -}}
{{- define "memkv.scrapers" -}}
{{- if and .Values.metrics.enabled .Values.metrics.scrapers -}}
- from:
    {{- toYaml .Values.metrics.scrapers | nindent 4 }}
  ports:
    - {protocol: TCP, port: metrics}
{{- end -}}
{{- end -}}

{{- define "memkv.confined" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- /* TLS files as volume and flags; nothing where TLS is off. */ -}}
{{- define "memkv.tlsFlags" -}}
{{- if not .Values.tls.insecure }}
- --tls-cert=/etc/memkv/tls/tls.crt
- --tls-key=/etc/memkv/tls/tls.key
- --tls-ca=/etc/memkv/tls/ca.crt
{{- end }}
{{- end -}}

{{- define "memkv.tlsMount" -}}
{{- if not .Values.tls.insecure }}
- name: tls
  mountPath: /etc/memkv/tls
  readOnly: true
{{- end }}
{{- end -}}

{{- /* What the control plane shows to etcd, and believes there. */ -}}
{{- define "memkv.etcdTlsFlags" -}}
{{- with .Values.control.etcdTls }}
{{- if .secret }}
- --etcd-ca=/etc/memkv/etcd-tls/ca.crt
{{- if .clientCertificate }}
- --etcd-cert=/etc/memkv/etcd-tls/tls.crt
- --etcd-key=/etc/memkv/etcd-tls/tls.key
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "memkv.etcdTlsMount" -}}
{{- if .Values.control.etcdTls.secret }}
- name: etcd-tls
  mountPath: /etc/memkv/etcd-tls
  readOnly: true
{{- end }}
{{- end -}}

{{- define "memkv.etcdTlsVolume" -}}
{{- with .Values.control.etcdTls.secret }}
- name: etcd-tls
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
{{- end -}}

{{- define "memkv.tlsVolume" -}}
{{- if not (index . 0).Values.tls.insecure }}
- name: tls
  secret:
    secretName: {{ index . 1 }}
    defaultMode: 0440
{{- end }}
{{- end -}}
