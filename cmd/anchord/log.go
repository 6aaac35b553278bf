package main

import (
	"io"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/AlexCherrypi/anchord"
)

// logger writes one JSON object a line: time, level, msg, event, and fields.
type logger struct{ *logrus.Logger }

func newLogger(w io.Writer, level logrus.Level) logger {
	l := logrus.New()
	l.SetOutput(w)
	l.SetLevel(level)
	l.SetFormatter(&logrus.JSONFormatter{TimestampFormat: time.RFC3339Nano, DisableHTMLEscape: true})
	return logger{l}
}

// Event logs one event.
func (l logger) Event(level anchord.Level, event, message string, fields anchord.Fields) {
	message = anchord.Cut(message, anchord.LongestText)
	entry := l.WithField("event", event)
	for name, value := range fields {
		entry = entry.WithField(name, bounded(value))
	}
	switch level {
	case anchord.Debug:
		entry.Debug(message)
	case anchord.Info:
		entry.Info(message)
	case anchord.Warn:
		entry.Warn(message)
	case anchord.Error:
		entry.Error(message)
	}
}

// start logs what is wrong with the configuration, or the start and the
// warnings about it.
func (l logger) start(mode string, bad *configError, warnings []string) error {
	for _, fault := range bad.faults {
		l.Event(anchord.Error, anchord.EventConfigInvalid, fault, nil)
	}
	if len(bad.faults) > 0 {
		bad.logged = true
		return bad
	}
	l.Event(anchord.Info, anchord.EventStarting, "anchord starts", anchord.Fields{"mode": mode, "version": version, "commit": commit})
	for _, w := range warnings {
		l.Event(anchord.Warn, anchord.EventConfigWarning, w, nil)
	}
	return nil
}
