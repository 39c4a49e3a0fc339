{% macro delete_gone_rows(column_name, history) -%}
    {% if is_incremental() -%}
        delete from {{ this }}
        where {{ column_name }} in (
            select gone.{{ column_name }}
            from {{ history }} as gone
            where
                gone.is_current
                and gone.is_deleted
                and gone.{{ arrived_since_last_run() }}
        )
    {%- endif %}
{%- endmacro %}
