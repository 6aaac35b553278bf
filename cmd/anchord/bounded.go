package main

import (
	"reflect"

	"github.com/AlexCherrypi/anchord"
)

// bounded is a copy of v in which no text is longer than a message may be, however
// deep it is: what others wrote stands in many places of a status, of the doctor's
// findings and of an event's fields, and none may forget it.
func bounded(v any) any {
	if err, is := v.(error); is && err != nil {
		return anchord.Cut(err.Error(), anchord.LongestText)
	}
	if v == nil {
		return nil
	}
	out := reflect.New(reflect.TypeOf(v)).Elem()
	out.Set(reflect.ValueOf(v))
	bound(out)
	return out.Interface()
}

// bound shortens the texts of a value that can be set; what it shares with others
// is copied before.
func bound(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		if v.Len() > anchord.LongestText {
			v.SetString(anchord.Cut(v.String(), anchord.LongestText))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			// Not what is private to a type, such as a time's, which is never shown.
			if f := v.Type().Field(i); v.Field(i).CanSet() || f.Anonymous && f.Type.Kind() == reflect.Struct {
				bound(v.Field(i))
			}
		}
	case reflect.Slice:
		if v.IsNil() {
			return
		}
		list := reflect.MakeSlice(v.Type(), v.Len(), v.Len())
		reflect.Copy(list, v)
		for i := range list.Len() {
			bound(list.Index(i))
		}
		v.Set(list)
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return
		}
		inside := reflect.New(v.Elem().Type()).Elem()
		inside.Set(v.Elem())
		bound(inside)
		if v.Kind() == reflect.Pointer {
			v.Set(inside.Addr())
			return
		}
		v.Set(inside)
	case reflect.Map:
		if v.IsNil() {
			return
		}
		all := reflect.MakeMap(v.Type())
		for each := v.MapRange(); each.Next(); {
			inside := reflect.New(v.Type().Elem()).Elem()
			inside.Set(each.Value())
			bound(inside)
			all.SetMapIndex(each.Key(), inside)
		}
		v.Set(all)
	}
}
